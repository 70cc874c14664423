import pytest
import torch
import torch.nn.functional as F

from mmcontnet.ops import linear


@pytest.mark.parametrize('biased', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shape', [(2, 5, 8), (2, 3, 5, 8), (1, 1, 8)])
def test_it_is_the_linear_map_in_values_and_gradients(
    shape: tuple[int, ...], dtype: torch.dtype, biased: bool
) -> None:
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(6, 8, dtype=dtype, requires_grad=True)
    bias = torch.randn(6, dtype=dtype, requires_grad=True) if biased else None
    actual, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected)
    inputs, seed = [t for t in (x, weight, bias) if t is not None], torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, seed), torch.autograd.grad(expected, inputs, seed)
    )


@pytest.mark.parametrize('shape', [(2, 5, 8), (2, 3, 5, 8), (1, 1, 8)])
@pytest.mark.parametrize('grad', [True, False])
def test_gelu_after_it(shape: tuple[int, ...], grad: bool) -> None:
    x, weight, bias = torch.randn(shape), torch.randn(6, 8), torch.randn(6)
    with torch.set_grad_enabled(grad):
        actual = linear(x, weight, bias, gelu=True)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, F.gelu(F.linear(x, weight, bias)), rtol=1e-5, atol=1e-5)


def test_strided_tokens_work() -> None:
    x, weight = torch.randn(2, 8, 5).mT, torch.randn(6, 8)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
