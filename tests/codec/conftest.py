import pytest
from tiny_codec import make_codec

from open_miipher.codec import AudioTokenizer


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    make_codec(folder)
    return folder


@pytest.fixture(scope="session")
def reference(codec_folder):
    """The same codec as `transformers` itself runs it."""
    from transformers import EncodecModel

    return EncodecModel.from_pretrained(codec_folder).eval()


@pytest.fixture(scope="session")
def tokenizer(codec_folder):
    return AudioTokenizer("cpu", str(codec_folder), 1.5)
