import subprocess
import sys
import textwrap

from meetingctl.demo.processes import descendants


def test_descendants_are_found_through_every_generation():
    parents = {10: 1, 11: 10, 12: 11, 20: 1, 13: 12, 14: 10}
    assert sorted(descendants(parents, 10)) == [11, 12, 13, 14]
    assert descendants(parents, 20) == []


def test_daemons_and_stubborn_children_are_ended(tmp_path):
    """In a process of its own, because ending all descendants is what is tested."""
    program = textwrap.dedent(
        """
        import subprocess, time
        from pathlib import Path
        from meetingctl.demo.processes import adopt_orphans, end_descendants

        assert adopt_orphans()
        kept = subprocess.Popen(["sleep", "300"])
        stubborn = "trap '' HUP TERM; echo $$ > {0}/daemon; while :; do sleep 1; done"
        Path(PATH, "stubborn").write_text(stubborn.format(PATH))
        subprocess.run(["sh", "-c", f"setsid sh {PATH}/stubborn > /dev/null 2>&1 &"], check=True)
        while not (Path(PATH) / "daemon").exists() or not (Path(PATH) / "daemon").read_text().strip():
            time.sleep(0.01)
        print(end_descendants({kept.pid}, grace_s=0.3, kill_s=5), kept.poll(), flush=True)
        kept.kill()
        kept.wait()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", f"PATH = {str(tmp_path)!r}\n{program}"], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[] None\n", done.stderr
    pid = (tmp_path / "daemon").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], capture_output=True).returncode != 0
