"""Text conditioning of the coupled U-Net."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.checkpoint.loading import is_text
from model.networks.config import PRESETS, TEXT_TOKENS, UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair
from model.networks.text import TextTokens
from tests.model.networks.test_coupled_unet import clip, network, times

WORDS = replace(PRESETS["tiny"].base, text=12)


def tokens(*lengths: int, seed: int = 3) -> TextTokens:
    """Captions of so many tokens, with values in the masked ones too."""
    values = torch.randn(len(lengths), TEXT_TOKENS, 12, generator=torch.Generator().manual_seed(seed))
    return TextTokens(values, torch.arange(TEXT_TOKENS) < torch.tensor(lengths)[:, None])


def predict(net: CoupledUNet, batch: int, text: TextTokens | None) -> Pair:
    with torch.inference_mode():
        return net(clip(batch), times(*[300.0] * batch), None, True, text)


def same(a: Pair, b: Pair) -> bool:
    return bool((a.video == b.video).all() and (a.audio == b.audio).all())


@pytest.fixture(scope="module")
def net() -> CoupledUNet:
    return network(WORDS)


@pytest.mark.parametrize("preset", ["paper", "pocket", "tiny"])
def test_a_network_without_text_has_no_tensor_for_it(preset: str) -> None:
    with torch.device("meta"):
        assert not any(map(is_text, CoupledUNet(PRESETS[preset].base).state_dict()))


def test_weights_without_text_predict_the_same_to_the_bit_in_a_network_with_text() -> None:
    plain = network()
    grown = CoupledUNet(WORDS).eval()
    missing, unexpected = grown.load_state_dict(plain.state_dict(), strict=False)
    assert all(map(is_text, missing))
    assert not unexpected
    for text in (None, tokens(5, 0)):
        assert same(predict(grown, 2, text), predict(plain, 2, None))


def test_both_modalities_depend_on_the_caption(net: CoupledUNet) -> None:
    one, other = predict(net, 1, tokens(5)), predict(net, 1, tokens(5, seed=4))
    assert not torch.equal(one.video, other.video)
    assert not torch.equal(one.audio, other.audio)


def test_the_order_of_tokens_matters(net: CoupledUNet) -> None:
    text = tokens(2)
    swapped = TextTokens(text.tokens[:, [1, 0, *range(2, TEXT_TOKENS)]], text.mask)
    assert not same(predict(net, 1, text), predict(net, 1, swapped))


def test_masked_tokens_have_no_effect(net: CoupledUNet) -> None:
    text = tokens(4)
    other = TextTokens(torch.where(text.mask[:, :, None], text.tokens, 7.0), text.mask)
    assert same(predict(net, 1, text), predict(net, 1, other))


def test_a_row_without_tokens_has_no_caption(net: CoupledUNet) -> None:
    assert same(predict(net, 1, tokens(0)), predict(net, 1, None))
    assert not same(predict(net, 1, tokens(0)), predict(net, 1, tokens(1)))


def test_rows_do_not_see_the_captions_of_others(net: CoupledUNet) -> None:
    text = tokens(6, 0, 32)
    together = predict(net, 3, text)
    for row in range(3):
        alone = net(
            clip(3).map(lambda value, row=row: value[row : row + 1]),
            times(300.0),
            None,
            True,
            TextTokens(text.tokens[row : row + 1], text.mask[row : row + 1]),
        )
        assert torch.allclose(together.video[row], alone.video[0], atol=1e-4)
        assert torch.allclose(together.audio[row], alone.audio[0], atol=1e-4)


def test_everything_of_the_text_conditioning_learns() -> None:
    net = network(WORDS).train()
    out = net(clip(2), times(300.0, 300.0), None, True, tokens(3, 0))
    (out.video.square().mean() + out.audio.square().mean()).backward()
    text = {name: value.grad for name, value in net.named_parameters() if is_text(name)}
    assert text
    assert all(
        value is not None and value.abs().sum() > 0 for name, value in text.items() if not name.endswith("kv.bias")
    )


def test_one_modality_can_have_text_too() -> None:
    config = replace(WORDS, modalities=("audio",))
    net = network(config)
    x, t = Pair(None, clip(1).audio), Pair(None, torch.tensor([10.0]))
    assert not torch.equal(net(x, t, text=tokens(3)).audio, net(x, t).audio)


@pytest.mark.parametrize(
    ("config", "text", "message"),
    [
        (PRESETS["tiny"].base, tokens(3), "takes no text"),
        (WORDS, tokens(3, 3), r"tokens \(1, 32, 12\)"),
        (replace(WORDS, text=13), tokens(3), r"tokens \(1, 32, 13\)"),
    ],
)
def test_text_that_does_not_fit_is_refused(config: UNetConfig, text: TextTokens, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(config)(clip(1), times(1.0), None, True, text)
