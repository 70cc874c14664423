from pathlib import Path

import pytest

from mmcontnet.analysis.complexity import complexity
from mmcontnet.engine import load_config

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize(
    ('arch', 'parameters', 'multiply_adds'),
    # The authors' networks, measured.
    [
        ('ti', 5_888_992, 1.000e9),
        ('s', 10_103_400, 1.671e9),
        ('m', 19_536_936, 3.440e9),
        ('b', 36_043_112, 7.029e9),
    ],
)
def test_classifiers_cost_what_the_authors_do(
    arch: str, parameters: int, multiply_adds: float
) -> None:
    result = complexity(load_config(str(CONFIGS / f'cont_{arch}_8xb64_in1k.py')), (224, 224))
    assert result.parameters == parameters
    assert result.multiply_adds == pytest.approx(multiply_adds, abs=1e6)


def test_attention_of_cont_m_is_what_the_paper_leaves_out() -> None:
    result = complexity(load_config(str(CONFIGS / 'cont_m_8xb64_in1k.py')), (224, 224))
    # 3.086 G without attention, the paper's 3.1.
    assert result.multiply_adds - result.attention == pytest.approx(3.086e9, abs=1e6)
