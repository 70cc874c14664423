"""Command lines tell a user's mistake in one line."""

import pytest

from mmcontnet.errors import UserError, exit_on_user_error


def test_a_message_of_several_lines_becomes_one() -> None:
    with pytest.raises(SystemExit) as end, exit_on_user_error('tool.py'):
        raise UserError("bad 'a  b':\n\n  first\r\n  second\u2028third\n")
    assert end.value.code == "tool.py: error: bad 'a  b': first second third"
