"""Files that are whole at every instant."""

import errno

import pytest

from reverie.buffers import aside


@pytest.mark.parametrize("old", ["a status of before, which is longer\n", "short\n"])
def test_a_text_that_the_disk_takes_a_part_of_leaves_the_old_one(old, tmp_path, monkeypatch):
    path = tmp_path / "stamp.json"
    path.write_text(old)

    def a_part(file, data):
        file.write(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(aside, "write_all", a_part)
    with pytest.raises(OSError, match="No space"):
        aside.overwrite(path, "a new status\n")
    assert path.read_text() == old
    monkeypatch.undo()
    aside.overwrite(path, "a new status\n")
    assert path.read_text() == "a new status\n"
