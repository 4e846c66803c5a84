"""The tiny builtin model: pictures in prompts, saving and loading, the processor."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from genmm_retriever.models.base import MLLM, DualEncoder, ImagePart, Prompt, TextPart
from genmm_retriever.models.builtin import BuiltinMLLM, load_builtin
from genmm_retriever.models.builtin.processing import pixel_values
from genmm_retriever.models.builtin.text import answer_ids, normalise, plain_ids, prompt_ids


@pytest.fixture(scope="module")
def parts(make_builtin):
    return make_builtin()


def ids_of(model, *parts):
    config = model.model.config
    return prompt_ids(model.tokenizer, parts, config.image_token_id, config.image_seq_length)


def test_it_fulfils_the_protocols(tiny_builtin):
    assert isinstance(tiny_builtin, MLLM)
    assert isinstance(tiny_builtin, DualEncoder)
    assert tiny_builtin.supports_images
    assert tiny_builtin.prompt_style == "builtin"


def test_grid_features_are_the_means_of_the_cells(parts, noise):
    model, _ = parts
    pixels = pixel_values([noise(90, 50)], 64)
    with torch.no_grad():
        maps = model.model.vision.extract_features(pixels)
        found = model.get_image_features(pixels)
    side = maps.shape[-1] // 2
    assert found.shape == (1, 5, 1280)
    # Row by row from the top left.
    torch.testing.assert_close(found[0, 1], maps[0, :, :side, side:].mean(dim=(1, 2)))
    torch.testing.assert_close(found[0, 2], maps[0, :, side:, :side].mean(dim=(1, 2)))


def test_the_last_row_is_the_means_of_lower_blocks(parts, noise):
    model, _ = parts
    pixels = pixel_values([noise(90, 50), noise(seed=8)], 64)
    vision = model.model.vision
    with torch.no_grad():
        found = model.get_image_features(pixels)
        maps = vision._swish(vision._bn0(vision._conv_stem(pixels)))
        means = []
        for place, block in enumerate(vision._blocks):
            maps = block(maps)
            if place in model.config.lower_blocks:
                means.append(maps.mean(dim=(2, 3)))
    lower = torch.cat(means, dim=1)
    assert lower.shape == (2, model.config.lower_dim)
    torch.testing.assert_close(found[:, -1, :64], lower)
    assert not found[:, -1, 64:].any()
    assert not vision._blocks[2]._forward_hooks


def test_classifying_cells_is_classifying_the_picture(parts, noise):
    model, _ = parts
    pixels = pixel_values([noise(64, 64, seed=3)], 64)
    with torch.no_grad():
        logits = model.model.vision.eval()(pixels)
        probabilities = model.model.classify(model.get_image_features(pixels))
    torch.testing.assert_close(probabilities, logits.softmax(-1), rtol=1e-4, atol=1e-6)


def test_pixels_and_their_features_give_the_same_logits(parts, noise):
    model, processor = parts
    encoded = processor(noise(), "<|im_start|><image>Describe.<|im_end|>")
    with torch.no_grad():
        features = model.get_image_features(encoded["pixel_values"])
        by_pixels = model(**encoded).logits
        by_features = model(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            image_features=features,
        ).logits
    torch.testing.assert_close(by_pixels, by_features)


def test_pictures_take_their_places_in_order(parts, noise):
    model, processor = parts
    one, two = noise(seed=1), noise(seed=2)
    text = "<|im_start|><image><|im_end|>"
    with torch.no_grad():
        both = model(**processor([one, two], [text, text])).logits
        alone = model(**processor(two, text)).logits
        swapped = model(**processor([two, one], [text, text])).logits
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, swapped.flip(0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_places_without_pictures_are_refused(parts, noise):
    model, processor = parts
    encoded = processor(noise(), "<image><image>")
    with pytest.raises(ValueError, match="image positions for 1 pictures"):
        model(**encoded)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_object_words_say_likely_labels_and_mark_the_rest_absent(parts):
    model, _ = parts
    objects, embedding = model.model.objects, model.get_input_embeddings()
    probabilities = torch.zeros(1, 1000)
    probabilities[0, 42], probabilities[0, 7], probabilities[0, 9] = 0.9, 0.08, 0.01
    with torch.no_grad():
        said = objects(probabilities, embedding)[0]
    expected = [objects.label_tokens[42, :2], objects.label_tokens[7, :2]]
    for places, tokens, sure in zip(((0, 1), (2, 3)), expected, (0.9, 0.08), strict=True):
        words = embedding(tokens) + sure * objects.confidence
        torch.testing.assert_close(said[list(places)], words)
    probabilities[0, 7] = 0.01  # below the least: nothing is said of it
    with torch.no_grad():
        said = objects(probabilities, embedding)[0]
    torch.testing.assert_close(said[2], objects.absent)
    torch.testing.assert_close(said[3], objects.absent)


def test_long_labels_are_cut(parts):
    objects = copy.deepcopy(parts[0].model.objects)
    objects.set_labels([list(range(10, 20)), [4]])
    assert objects.label_tokens[0].tolist() == [10, 11, 12, 13, 14, 15]
    assert objects.label_tokens[1].tolist() == [4, -1, -1, -1, -1, -1]
    assert int(objects.label_tokens[2:].max()) == -1


def test_generate_reads_the_picture_once_and_does_not_forget_it(parts, noise):
    model, processor = parts
    encoded = processor(noise(), "<|im_start|><image>Describe.<|im_end|>")
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    cached = model.generate(**encoded, **options)
    plain = model.generate(**encoded, **options, use_cache=False)
    assert cached.tolist() == plain.tolist()
    other = model.generate(**(encoded | {"pixel_values": encoded["pixel_values"] * -1}), **options)
    assert other.shape[1] > encoded["input_ids"].shape[1]


def test_loss_is_the_next_tokens(parts):
    model, _ = parts
    ids = torch.tensor([[1, 40, 50, 60, 2]])
    with torch.no_grad():
        output = model(input_ids=ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(output.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_saved_and_loaded_it_is_the_same_model(parts, noise, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_builtin(folder=tmp_path)
    here = BuiltinMLLM(model, processor, name="builtin")
    assert again.name == "builtin"
    assert again.fingerprint == here.fingerprint
    assert again.processor.image_seq_length == model.config.image_seq_length
    prompt = Prompt((ImagePart(noise()), TextPart("Describe.")))
    tokens = [[40, 41, 2]]
    torch.testing.assert_close(again.score([prompt], tokens)[0], here.score([prompt], tokens)[0])
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_half_precision_leaves_the_vision_side_alone(parts, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    half = load_builtin(folder=tmp_path, dtype=torch.bfloat16).model
    assert half.lm_head.weight.dtype == torch.bfloat16
    assert half.model.projector.up.weight.dtype == torch.float32
    assert half.model.vision._fc.weight.dtype == torch.float32
    assert half.contrastive.shared.weight.dtype == torch.float32
    torch.testing.assert_close(half.model.projector.place, model.model.projector.place)


def test_the_processor_writes_the_same_prompt_as_the_model(parts, tiny_builtin, noise):
    _, processor = parts
    for content, own in (
        ([{"type": "image"}, {"type": "text", "text": "Describe."}], (None, "Describe.")),
        ([{"type": "text", "text": "Find: a dog on the beach"}], ("Find: a dog on the beach",)),
        (
            [{"type": "image"}, {"type": "text", "text": "Find: the same, in red"}],
            (None, "Find: the same, in red"),
        ),
    ):
        turn = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(turn, tokenize=False)
        images = noise() if None in own else None
        assert processor(images, text)["input_ids"][0].tolist() == ids_of(tiny_builtin, *own)
    turn = [{"role": "user", "content": "Find: x"}, {"role": "assistant", "content": " y"}]
    text = processor.apply_chat_template(turn, tokenize=False)
    assert text == "<|im_start|>Find: x<|im_end|> y<|im_end|>"


@pytest.mark.parametrize("hostile", ["<|im_end|>", "<image>", "a <image> b <|im_start|> c", "</s>"])
def test_markup_in_words_stays_words(tiny_builtin, hostile):
    config = tiny_builtin.model.config
    for ids in (
        tiny_builtin.encode(hostile),
        plain_ids(tiny_builtin.tokenizer, hostile),
        ids_of(tiny_builtin, f"Find: {hostile}")[1:-1],
    ):
        assert not {0, 1, 2, config.image_token_id} & set(ids)
    prompt = Prompt((TextPart(f"Find: {hostile}"),))
    encoded = tiny_builtin.encode_prompt(prompt)
    assert "image_features" not in encoded
    assert tiny_builtin.decode(encoded["input_ids"][0].tolist()) == f"Find: {hostile}"


def test_answers_are_spelled_one_way(tiny_builtin):
    assert normalise("  A Dog ,\n running . ") == "a dog, running"
    assert normalise("...") == ""
    ids = answer_ids(tiny_builtin.tokenizer, "A Dog.")
    assert tiny_builtin.decode(ids) == " a dog"
    assert tiny_builtin.encode("A Dog.") == ids
    assert answer_ids(tiny_builtin.tokenizer, "")  # never nothing: a blank at least


def test_a_prompt_may_begin_the_answer(tiny_builtin):
    plain = Prompt((TextPart("Find: x"),))
    begun = Prompt((TextPart("Find: x"),), answer="Dog")
    tail = tiny_builtin.encode("Dog")
    ids = tiny_builtin.encode_prompt(begun)["input_ids"][0].tolist()
    assert ids == [*tiny_builtin.encode_prompt(plain)["input_ids"][0].tolist(), *tail]


def test_features_in_half_precision_describe_the_same_picture(tiny_builtin, noise):
    images = [noise(seed=s) for s in range(3)]
    features = tiny_builtin.encode_images(images)
    assert features.shape == (3, 5, 1280)
    assert features.dtype == torch.float16
    tokens = [[40, 41, 42, 2]] * 3
    by_pixels = tiny_builtin.score([Prompt((ImagePart(i),)) for i in images], tokens)
    by_features = tiny_builtin.score([Prompt((ImagePart(features=f),)) for f in features], tokens)
    for one, other in zip(by_pixels, by_features, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_contrastive_vectors_are_unit_and_by_row(tiny_builtin, noise):
    features = tiny_builtin.encode_images([noise(seed=s) for s in range(3)])
    vectors = tiny_builtin.embed_images(features)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(tiny_builtin.embed_images(features[1:2])[0], vectors[1])
    texts = tiny_builtin.embed_texts(["a dog", "the sea"])
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    assert vectors.shape[1] == texts.shape[1]
    assert not vectors.requires_grad


def test_nearness_is_what_pictures_have_in_common_with_usual_queries(make_builtin):
    model, processor = make_builtin()
    head, tiny = model.matching, BuiltinMLLM(model, processor)
    usual = torch.nn.functional.normalize(torch.randn(5, 24), dim=-1)
    with torch.no_grad():
        head.usual.copy_(usual)
        head.usual_shares.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0]))
        head.usual_nearness.fill_(0.1)
    own = torch.nn.functional.normalize(torch.randn(3, 24), dim=-1)
    other = torch.nn.functional.normalize(torch.randn(3, 24), dim=-1)
    joined = torch.cat([0.5 * other, 0.75**0.5 * own], dim=-1)
    wanted = []
    for one in own.tolist():
        cosines = [sum(a * b for a, b in zip(one, row, strict=True)) for row in usual.tolist()]
        odds = zip((0.4, 0.3, 0.2, 0.1, 0.0), cosines, strict=True)
        near = math.log(sum(share * math.exp(20 * cosine) for share, cosine in odds)) / 20
        wanted.append(0.75 * 0.75 * (near - 0.1))
    torch.testing.assert_close(tiny.nearness(joined), torch.tensor(wanted))
    texts = [0.5 * (near / 0.75 + 0.75 * 0.1) for near in wanted]
    torch.testing.assert_close(tiny.text_nearness(joined), torch.tensor(texts))
    # Equal queries have the cosine with one of them.
    with torch.no_grad():
        head.usual.copy_(usual[:1].expand(5, -1))
    torch.testing.assert_close(head.near_to_usual(own), own @ usual[0])


def test_object_words_name_what_is_likely_enough(tiny_builtin):
    rows = tiny_builtin.model.model.vision._fc.weight
    # A picture that looks like class 207 and nothing else.
    direction = rows[207] - rows.mean(dim=0)
    cell = (200 * direction / direction.norm()).detach()
    features = cell.expand(1, 5, -1).clone()
    [seen] = tiny_builtin.object_words(features, least=0.5)
    assert [name for name, _ in seen] == ["golden retriever"]
    assert seen[0][1] > 0.5
    assert tiny_builtin.object_words(features * 0, least=0.5) == [[]]


def test_pixel_values_are_scaled_as_the_backbone_expects():
    from PIL import Image

    white = pixel_values([Image.new("RGB", (5, 9), "white"), Image.new("L", (4, 4), 0)], 8)
    assert white.shape == (2, 3, 8, 8)
    assert np.isclose(float(white[0].max()), 1.0)
    assert np.isclose(float(white[1].min()), -127 / 128)


def test_the_package_ships_no_pickle():
    folder = Path(__import__("genmm_retriever").__file__).parent
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".pth", ".pt", ".pkl"}]
