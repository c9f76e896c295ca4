"""What one machine needs of a testbed folder leaves it whole, once, and where nobody else can read."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from lab.runs.testbeds import parcel as parcel_module
from lab.runs.testbeds.folder import FolderError, create_folder, template_path
from lab.runs.testbeds.parcel import LEAVING_FILE, export_roles, import_parcel
from lab.runs.testbeds.role_secrets import checked_secrets
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.keystore.pair_secret import PairSecret


class KilledError(BaseException):
    """The process ends here."""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    create_folder(tmp_path / "bench", template_path("simulated-reference"))
    tmp_path.chmod(0o700)
    return tmp_path / "bench"


def content(folder: Path) -> dict[str, bytes]:
    return {
        each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()
    }


def user_of(bench: Path) -> str:
    return load_testbed(bench / "testbed.toml").user_names()[0]


@pytest.mark.parametrize("name", ["parcel", "parcel.tar"])
def test_a_role_s_secrets_are_moved_whole_and_nothing_of_another_role(bench: Path, name: str) -> None:
    user = user_of(bench)
    before = content(bench)
    made = export_roles(bench, [user], bench.with_name(name))
    assert made.folders == (user, f"fl-{user}")
    assert not [each for each in content(bench) if each.split("/")[1:2] in ([user], [f"fl-{user}"])]
    assert not (bench / "secrets" / LEAVING_FILE).exists()
    assert Path(made.place).stat().st_mode & 0o077 == 0
    far = bench.with_name("far")
    arrived = import_parcel(Path(made.place), far)
    assert arrived.roles == (user,)
    assert not Path(made.place).exists()
    assert not list(bench.parent.glob(".*"))
    theirs = content(far)
    assert theirs == {each: before[each] for each in theirs}
    assert {each.split("/")[1] for each in theirs if each.startswith("secrets/")} == {user, f"fl-{user}"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (far / "secrets").rglob("*"))
    assert checked_secrets(load_testbed(far / "testbed.toml"), far) == [user, f"fl-{user}"]


def test_an_application_has_a_parcel_of_its_own_and_the_authority_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    create_folder(tmp_path / "bench", template_path("simulated-reference"), applications={"app1": "alice"})
    bench = tmp_path / "bench"
    node = import_parcel(Path(export_roles(bench, ["alice"], tmp_path / "a.tar").place), tmp_path / "node")
    assert node.folders == ("alice", "fl-alice")
    assert (tmp_path / "node" / "secrets" / "alice" / "kme-key.pem").exists()
    app = import_parcel(Path(export_roles(bench, ["sae-app1"], tmp_path / "b.tar").place), tmp_path / "app")
    assert app.folders == ("sae-app1",)
    assert sorted(path.name for path in (tmp_path / "app" / "secrets").iterdir()) == ["sae-app1"]
    assert (bench / "secrets" / "authority" / "ca-key.pem").exists()
    with pytest.raises(ValueError, match="no role is called 'authority'"):
        export_roles(bench, ["authority"], tmp_path / "c.tar")


def test_a_second_role_joins_a_folder_of_the_same_testbed_and_of_no_other(bench: Path) -> None:
    far = bench.with_name("far")
    for role in ("relay", "observer"):
        import_parcel(Path(export_roles(bench, [role], bench.with_name(f"{role}.tar")).place), far)
    assert checked_secrets(load_testbed(far / "testbed.toml"), far) == ["relay", "observer"]
    made = export_roles(bench, ["orchestrator"], bench.with_name("hub.tar"))
    data = read_testbed(far / "testbed.toml")
    data["protocol"] = {**data.get("protocol", {}), "qber_limit": 0.07}
    write_testbed(data, far / "testbed.toml")
    with pytest.raises(FolderError, match=r"another testbed: .* differs from this folder's in \[protocol\]"):
        import_parcel(Path(made.place), far)
    assert Path(made.place).exists()
    assert not (far / "secrets" / "orchestrator").exists()


def test_what_cannot_leave_stays_with_a_reason(bench: Path) -> None:
    user = user_of(bench)
    before = content(bench)
    with pytest.raises(ValueError, match="no role is called 'nobody'"):
        export_roles(bench, ["nobody"], bench.with_name("x.tar"))
    with pytest.raises(FolderError, match="there is no folder"):
        export_roles(bench, [user], bench.parent / "nowhere" / "x.tar")
    with pytest.raises(FolderError, match="among the secrets that stay"):
        export_roles(bench, [user], bench / "secrets" / "x")
    (bench.parent / "open").mkdir()
    (bench.parent / "open").chmod(0o777)
    with pytest.raises(FolderError, match="others may write in"):
        export_roles(bench, [user], bench.parent / "open" / "x.tar")
    (bench / "state" / user).mkdir(parents=True)
    (bench / "state" / user / "keys.sqlite").touch()
    with pytest.raises(FolderError, match="which never moves"):
        export_roles(bench, [user], bench.with_name("x.tar"))
    (bench / "state" / user / "keys.sqlite").unlink()
    assert content(bench) == before
    export_roles(bench, [user], bench.with_name("x.tar"))
    with pytest.raises(FolderError, match="they have left, or never were here"):
        export_roles(bench, [user], bench.with_name("y.tar"))


def test_a_place_without_modes_or_on_a_server_is_refused(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(bench)
    with monkeypatch.context() as patch:
        patch.setattr(parcel_module, "file_system_type", lambda path: "nfs4")
        with pytest.raises(FolderError, match="lies on nfs4"):
            export_roles(bench, ["relay"], bench.with_name("x.tar"))

    def without_modes(stage: Path, as_tar: bool, files: dict[str, bytes]) -> None:
        write(stage, as_tar, files)
        stage.chmod(0o755)

    write = parcel_module._write
    monkeypatch.setattr(parcel_module, "_write", without_modes)
    with pytest.raises(FolderError, match="keeps no modes"):
        export_roles(bench, ["relay"], bench.with_name("x.tar"))
    assert content(bench) == before
    assert not list(bench.parent.glob("*x.tar*"))


@pytest.mark.parametrize("name", ["parcel", "parcel.tar"])
def test_an_export_killed_anywhere_leaves_the_secrets_in_one_place(
    bench: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever rename, removal or note it was killed before, the next export undoes or finishes it."""
    images: list[Path] = []

    def keep() -> None:
        images.append(bench.parent.parent / f"{bench.parent.name}-image{len(images)}")
        shutil.copytree(bench.parent, images[-1])

    def before(function: object) -> object:
        def act(*arguments: object, **more: object) -> object:
            keep()
            return function(*arguments, **more)  # type: ignore[operator]

        return act

    place = bench.with_name(name)
    with monkeypatch.context() as patch:
        for step in ("write_kept", "move_file", "destroy_folder", "create_file"):
            patch.setattr(parcel_module, step, before(getattr(parcel_module, step)))
        export_roles(bench, ["relay"], place)
    keep()
    assert len(images) >= 6
    found = []
    for image in images:
        note = image / "bench" / "secrets" / LEAVING_FILE
        if note.exists():
            note.write_text(note.read_text().replace(str(bench.parent), str(image)))
        gone = (image / name).exists()
        if gone:
            with pytest.raises(FolderError, match="they have left"):
                export_roles(image / "bench", ["relay"], image / "again.tar")
        else:
            export_roles(image / "bench", ["relay"], image / "again.tar")
        here = (image / "again.tar").exists()
        found.append((gone, here))
        assert gone != here
        assert not (image / "bench" / "secrets" / "relay").exists()
    assert (True, False) in found
    assert (False, True) in found


def test_a_place_that_is_away_leaves_an_interrupted_export_undecided(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    (bench.parent / "stick").mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setattr(parcel_module, "move_file", killed)
        with pytest.raises(KilledError):
            export_roles(bench, ["relay"], bench.parent / "stick" / "x.tar")
    (bench.parent / "stick").rename(bench.parent / "away")
    with pytest.raises(FolderError, match="bring its place back and repeat"):
        export_roles(bench, ["relay"], bench.parent / "y.tar")
    assert (bench / "secrets" / "relay").is_dir()


def test_a_damaged_or_strange_parcel_is_refused_and_stays(bench: Path) -> None:
    place = Path(export_roles(bench, ["relay"], bench.with_name("x.tar")).place)
    whole, far = place.read_bytes(), bench.with_name("far")
    place.write_bytes(whole[:1500])
    with pytest.raises(FolderError, match=r"cut short|not whole"):
        import_parcel(place, far)
    spoilt = bytearray(whole)
    spoilt[whole.index(b'name = "')] ^= 1
    place.write_bytes(bytes(spoilt))
    with pytest.raises(FolderError, match=r"not whole \(testbed.toml\)"):
        import_parcel(place, far)
    place.write_bytes(whole)
    with tarfile.open(place, "a") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    with pytest.raises(FolderError, match=r"not whole \(\.\./escaped\)"):
        import_parcel(place, far)
    place.write_bytes(b"no tar")
    with pytest.raises(FolderError, match="is no parcel"):
        import_parcel(place, far)
    assert place.exists()
    assert not (far / "secrets").exists()
    place.write_bytes(whole)
    import_parcel(place, far)


def test_an_arrival_that_was_interrupted_goes_on_and_another_is_refused(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(export_roles(bench, ["relay", "observer"], bench.with_name("x.tar")).place)
    far = bench.with_name("far")
    steps = [0]

    def killed_at_third(old: Path, new: Path) -> None:
        steps[0] += 1
        if steps[0] == 3:
            raise KilledError
        os.replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(parcel_module, "move_file", killed_at_third)
        with pytest.raises(KilledError):
            import_parcel(place, far)
    copy = place.read_bytes()
    assert sorted(path.name for path in (far / "secrets").iterdir()) in (["relay"], ["observer"])
    import_parcel(place, far)
    assert checked_secrets(load_testbed(far / "testbed.toml"), far) == ["relay", "observer"]
    (far / "secrets" / "relay" / "curve.public").write_text("x" * 40)
    place.write_bytes(copy)
    with pytest.raises(FolderError, match="a role's secrets arrive once"):
        import_parcel(place, far)


def test_check_tells_what_is_wrong_with_the_secrets_here(bench: Path) -> None:
    user, other = load_testbed(bench / "testbed.toml").user_names()[:2]
    (bench / "secrets" / user / "initial" / f"{other}.secret").unlink()
    shutil.copy(bench / "secrets" / "relay" / "curve.public", bench / "secrets" / "observer" / "curve.public")
    (bench / "secrets" / "fl-server" / "curve.secret").chmod(0o644)
    with pytest.raises(FolderError) as caught:
        checked_secrets(load_testbed(bench / "testbed.toml"), bench)
    told = str(caught.value)
    assert f"{other}.secret is missing" in told
    assert "observer are damaged or not a pair" in told
    assert "fl-server/curve.secret can be read by others" in told


def test_a_secret_for_the_other_end_is_found(bench: Path) -> None:
    user, other = load_testbed(bench / "testbed.toml").user_names()[:2]
    path = bench / "secrets" / user / "initial" / f"{other}.secret"
    shutil.copy(bench / "secrets" / other / "initial" / f"{user}.secret", path)
    assert PairSecret.read(path).holder == other
    with pytest.raises(FolderError, match=f"is the half that {other} is to take"):
        checked_secrets(load_testbed(bench / "testbed.toml"), bench)
