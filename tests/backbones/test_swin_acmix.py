"""What is Swin-ACmix's own; what all backbones promise is in test_contract.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcontnet.backbones import SwinACmix
from mmcontnet.layers import SwinACmixBlock, shift_mask

from .. import families
from ..families import ALL

SIDE = 4  # of a window


def randomised_block(shifted: bool) -> SwinACmixBlock:
    block = SwinACmixBlock(12, 3, SIDE, shifted).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def plain_block(block: SwinACmixBlock, x: Tensor, shifts: tuple[int, int]) -> Tensor:
    """Write a block out for one map, (H, W, C) -> the same: attention over all pixels at once."""
    acmix, path = block.acmix, block.acmix.convolution
    size = x.shape[:2]
    padded = [-(-n // SIDE) * SIDE for n in size]
    normed = block.norm1(x)
    tokens = normed.new_zeros(*padded, 12)
    tokens[: size[0], : size[1]] = normed
    q, k, v = acmix.qkv(tokens).view(-1, 3, 3, 4).permute(1, 2, 0, 3)

    # Where each pixel lies after the shift; its window; and whether it came around the border.
    places = [(torch.arange(n) - s) % n for n, s in zip(padded, shifts, strict=True)]
    places = torch.cartesian_prod(*places)
    around = torch.cartesian_prod(
        *(torch.arange(n) < s for n, s in zip(padded, shifts, strict=True))
    )
    region = torch.cat([places // SIDE, around], dim=1)
    together = (region[:, None] == region).all(-1)
    offsets = (places[:, None] - places + SIDE - 1).clamp(0, 2 * SIDE - 2)  # if together
    table = acmix.position_bias.relative_position_bias_table.view(2 * SIDE - 1, 2 * SIDE - 1, 3)
    bias = table[offsets[..., 0], offsets[..., 1]].permute(2, 0, 1)
    logits = (q @ k.mT / 2 + bias).masked_fill(~together, -torch.inf)
    attended = acmix.proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))

    # All groups of a pixel, mixed alike for each channel of a head; nothing outside of the map.
    groups = torch.stack([q, k, v]).flatten(0, 1)
    maps = torch.einsum('tg,gnd->dtn', path.mix.weight, groups) + path.mix.bias[:, None]
    maps = maps.reshape(1, 36, *padded)
    maps[..., size[0] :, :] = 0
    maps[..., size[1] :] = 0
    backwards = [-shift for shift in shifts]
    convolved = F.conv2d(maps.roll(backwards, (2, 3)), path.shift.weight, padding=1, groups=4)
    convolved = convolved.roll(shifts, (2, 3))[0].permute(1, 2, 0)

    alpha, beta = acmix.sum.rates
    mixed = alpha * attended.view(*padded, 12) + beta * convolved
    x = x + mixed[: size[0], : size[1]]
    return x + block.fc2(F.gelu(block.fc1(block.norm2(x))))


@pytest.mark.parametrize(
    ('size', 'shifts'),
    [
        ((8, 12), (2, 2)),
        ((9, 6), (2, 2)),  # padded by three rows and two columns
        ((3, 10), (0, 2)),  # one window high
        ((4, 4), (0, 0)),
        ((1, 1), (0, 0)),
    ],
)
@pytest.mark.parametrize('shifted', [False, True])
def test_block_equals_attention_over_all_pixels_and_a_convolution_of_the_shifted_map(
    shifted: bool, size: tuple[int, int], shifts: tuple[int, int]
) -> None:
    block = randomised_block(shifted)
    x = torch.randn(2, *size, 12, dtype=torch.double, requires_grad=True)
    chw = x.permute(0, 3, 1, 2)
    actual = block(chw, shift_mask(chw, SIDE)).permute(0, 2, 3, 1)
    expected = torch.stack([plain_block(block, m, shifts if shifted else (0, 0)) for m in x])
    torch.testing.assert_close(actual, expected)
    inputs = [x, *block.parameters()]
    seed = torch.randn_like(expected)
    grads = torch.autograd.grad(actual, inputs, seed)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, inputs, seed))
    # Attention takes another way then.
    with torch.no_grad():
        torch.testing.assert_close(block(chw, shift_mask(chw, SIDE)), actual.permute(0, 3, 1, 2))


def test_what_is_masked_weighs_nothing_and_no_denormal_number() -> None:
    mask = shift_mask(torch.zeros(1, 12, 8, 12), SIDE)
    assert mask is not None
    assert mask.exp().unique().tolist() == [0, 1]


def test_windows_have_the_size_that_is_asked_for() -> None:
    backbone = SwinACmix(families.SWIN_ACMIX, window_size=3).eval()
    tables = [p for name, p in backbone.named_parameters() if name.endswith('bias_table')]
    assert {len(table) for table in tables} == {25}
    # Blocks that are not shifted do not look beyond their windows, but for the convolution.
    block = backbone.stages[0].blocks[0]
    nn.init.zeros_(block.acmix.convolution.shift.weight)
    x = torch.randn(1, 8, 9, 9)
    changed = x.clone()
    changed[:, 0, 4, 4] += 1
    with torch.no_grad():
        differ = (block(x, None) != block(changed, None)).any(1)[0]
    assert differ[3:6, 3:6].all()
    assert differ.sum() == 9


def test_norms_that_a_checkpoint_lacks_start_as_1_and_0_and_do_not_reach_the_next_stage() -> None:
    one = SwinACmix(families.SWIN_ACMIX).eval()
    four = SwinACmix(families.SWIN_ACMIX, out_indices=ALL).eval()
    for stage in four.stages:
        nn.init.normal_(stage.norm.weight)
        nn.init.normal_(stage.norm.bias)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        lines: list[str] = []
        patch.setattr('mmcontnet.backbones.swin_acmix.print_log', lambda m, _: lines.append(m))
        four.load_state_dict(four.state_dict(), strict=True)
        assert lines == [] and not four.stages[0].norm.bias.eq(0).any()  # kept if they are there
        four.load_state_dict(one.state_dict(), strict=True)
        assert [line.split(' ')[0] for line in lines] == [
            f'stages.{i}.norm.weight' for i in range(3)
        ]
        image = torch.randn(1, 3, 60, 90)
        outs = four(image)
        torch.testing.assert_close(outs[3], one(image)[0])
        # 1 and 0: the mean over channels is 0 and the variance 1.
        for out in outs[:3]:
            torch.testing.assert_close(out.mean(1), torch.zeros(out[:, 0].shape), atol=1e-5, rtol=0)
            variance = out.var(1, correction=0)
            torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.1, rtol=0)
