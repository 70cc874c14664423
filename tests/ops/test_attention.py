import torch

from mmcontnet.ops import attention


def test_chunked_attention_equals_the_plain_formula_in_values_and_gradients() -> None:
    q, k, v = (torch.randn(7, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weights = torch.softmax(q @ k.transpose(-2, -1) / 4**0.5, dim=-1)
    expected = weights @ v
    seed = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (q, k, v), seed)
    # None: one call; 6: chunks of three windows; 1: less than one window's heads.
    for max_batch in (None, 6, 1):
        actual = attention(q, k, v, max_batch=max_batch)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, (q, k, v), seed), expected_grads)
