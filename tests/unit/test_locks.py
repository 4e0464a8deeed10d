"""A file system whose locks do not reach other machines is named, by the table of mounts."""

from pathlib import Path

import pytest

from reidablate import locks

LOCAL = "/dev/sda1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n"


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("nfs rw,vers=3,nolock,proto=tcp", "on nfs with nolock, where"),
        ("nfs rw,vers=3,local_lock=none", None),
        ("nfs4 rw,vers=4.2,local_lock=all", "on nfs4 with local_lock=all, where"),
        ("nfs4 rw,vers=4.2,local_lock=none", None),
        ("lustre rw,flock,lazystatfs", None),
        ("lustre rw,localflock", "mount it with flock"),
        ("beegfs rw,relatime,cfgFile=/etc/beegfs/beegfs-client.conf", "tuneUseGlobalFileLocks"),
        ("fuse.sshfs rw,nosuid", "put the results elsewhere"),
        ("xfs rw,noatime", None),
    ],
)
def test_the_mount_of_a_folder_tells_whether_its_locks_are_shared(
    tmp_path: Path, mount: str, words: str | None
) -> None:
    folder = tmp_path / "a results" / "tiny"
    folder.mkdir(parents=True)
    point = str(folder.parent).replace(" ", "\\040")
    found = locks.doubt(folder, f"{LOCAL}server:/home {point} {mount} 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    assert (found is None) if words is None else (found is not None and words in found and str(folder) in found)


def test_the_last_of_two_mounts_at_one_place_is_the_one_that_is_seen(tmp_path: Path) -> None:
    twice = f"server:/a {tmp_path} nfs rw,nolock 0 0\nserver:/b {tmp_path} nfs rw,local_lock=none 0 0\n"
    assert locks.doubt(tmp_path, LOCAL + twice) is None
    assert locks.doubt(tmp_path, "") is None


def test_a_link_is_followed_to_where_the_folder_is(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "results").symlink_to("scratch")
    assert locks.doubt(tmp_path / "results", f"{LOCAL}s:/b {tmp_path / 'scratch'} nfs rw,nolock 0 0\n")


def test_this_machine_is_asked(tmp_path: Path) -> None:
    assert "/" in locks.MOUNTS.read_text()
    assert locks.doubt_here(tmp_path) is None
