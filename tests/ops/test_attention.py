import pytest
import torch

from mmcontnet.ops import attention


@pytest.mark.parametrize('biased', [False, True])
def test_chunked_attention_equals_the_plain_formula_in_values_and_gradients(biased: bool) -> None:
    q, k, v = (torch.randn(7, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    inputs = (q, k, v, bias) if biased else (q, k, v)
    logits = q @ k.transpose(-2, -1) / 4**0.5
    expected = torch.softmax(logits + bias if biased else logits, dim=-1) @ v
    seed = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, inputs, seed)
    # None: one call; 6: chunks of three windows; 1: less than one window's heads.
    for max_batch in (None, 6, 1):
        actual = attention(*inputs, max_batch=max_batch)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, inputs, seed), expected_grads)
        # Without gradients a bias takes another way.
        with torch.no_grad():
            torch.testing.assert_close(attention(*inputs, max_batch=max_batch), expected)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_bias_may_be_wider_than_the_queries(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(3, 2, 5, 4, dtype=dtype) for _ in range(3))
    out = attention(q, k, v, torch.randn(2, 5, 5))
    assert out.dtype == dtype
    assert out.isfinite().all()
