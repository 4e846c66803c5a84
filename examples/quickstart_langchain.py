import sys
from skimage.data import __path__ as photographs  # those inside the scikit-image wheel
from langchain_genmm import GenerativeMMRetriever
retriever = GenerativeMMRetriever.from_images(sys.argv[1:] or list(photographs), k=3)
for document in retriever.invoke("a cup of coffee"):
    print(document.metadata["source"], document.metadata["score"], document.page_content)
