import sys
from skimage.data import __path__ as photographs  # those inside the scikit-image wheel
from llama_index.retrievers.genmm import GenerativeMMRetriever
retriever = GenerativeMMRetriever.from_images(sys.argv[1:] or list(photographs), similarity_top_k=3)
for found in retriever.retrieve("a cup of coffee"):
    print(found.metadata["source"], found.score, found.get_content())
