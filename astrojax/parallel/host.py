"""Settings of the host process that must be made before it starts."""

import os
import sys


def restart_with_huge_pages() -> None:
    """Runs this very command again with glibc asking for huge pages, unless the environment already says how.

    XLA's CPU backend takes its working memory anew for every step, and the kernel hands it out in pages of 4 KiB, each
    after a page fault: with huge pages the default preset trains about 1.4 times faster (`python -m
    benchmarks.step_time`, with and without ``GLIBC_TUNABLES=glibc.malloc.hugetlb=0``). glibc reads the setting only
    when a process starts; it has no effect on systems without transparent huge pages or without glibc.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
