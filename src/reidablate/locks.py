"""Whether the locks of a folder hold between machines, as far as the way it is mounted tells."""

from pathlib import Path, PurePosixPath

MOUNTS = Path("/proc/self/mounts")
# Options under which a client keeps locks to itself, by type of file system, and what makes it share them. "" stands
# for any: nfs(5), mount.lustre(8), mount.cifs(8); BeeGFS and sshfs show no option of theirs in the table of mounts.
_ALONE = {
    "nfs": ({"nolock", "local_lock=flock", "local_lock=all"}, "mount it without nolock and local_lock"),
    "nfs4": ({"local_lock=flock", "local_lock=all"}, "mount it without local_lock"),
    "lustre": ({"localflock"}, "mount it with flock"),
    "cifs": ({"nobrl"}, "mount it without nobrl"),
    "beegfs": ({""}, "see that tuneUseGlobalFileLocks is true in beegfs-client.conf"),
    "fuse.sshfs": ({""}, "put the results elsewhere"),
}


def doubt(folder: Path, mounts: str) -> str | None:
    """Returns why locks of a folder may not hold between machines, as a sentence; None where nothing speaks against it.

    Args:
        folder: A folder that is there.
        mounts: The table of mounts of this machine, as `/proc/self/mounts` has it.
    """
    kind, options = _mount_of(folder.resolve(), mounts)
    signs, remedy = _ALONE.get(kind, (set(), ""))
    found = sorted(signs & {*options, ""})
    if not found:
        return None
    how = f" with {found[0]}" if found[0] else ""
    return (
        f"{folder} is on {kind}{how}, where a lock of one machine does not hold on another: start no second call on it "
        f"from another machine, and none while jobs of a call that was killed still run, or {remedy}."
    )


def doubt_here(folder: Path) -> str | None:
    """Returns what `doubt` says of a folder on this machine, None where there is no table of mounts."""
    try:
        return doubt(folder, MOUNTS.read_text(errors="surrogateescape"))
    except OSError:
        return None


def _mount_of(folder: Path, mounts: str) -> tuple[str, list[str]]:
    """Returns type and options of the file system that a folder is on: the last, deepest mount above it."""
    rows = [line.split(" ") for line in mounts.splitlines() if line.count(" ") >= 3]
    above = [(_plain(row[1]), row[2], row[3]) for row in rows if folder.is_relative_to(_plain(row[1]))]
    if not above:
        return "", []
    _, kind, options = max(reversed(above), key=lambda mount: len(mount[0].parts))
    return kind, options.split(",")


def _plain(point: str) -> PurePosixPath:
    """Returns the path of a mount, whose spaces and backslashes are octal numbers in the table."""
    for octal, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(octal, letter)
    return PurePosixPath(point)
