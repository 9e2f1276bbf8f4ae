"""Where settings come from, which are refused, and what is never shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from daemon.settings import load
from daemon.settings.docs import markdown
from daemon.settings.model import default_data_dir, mask_uri
from melt.errors import ConfigError

ROOT = Path(__file__).parents[2]
MINT = {"MELTD_MINTS__MAIN__URL": "https://mint.example"}
SEED = "abandon ability able about above absent absorb abstract absurd abuse access accident"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_each_source_covers_the_ones_below_it_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "drain_s = 1\n[http]\nport = 1\nhost = '127.0.0.1'\n[sweep]\ninterval_s = 1\n")
    settings = load(
        config=file,
        environ={"MELTD_HTTP__PORT": "2", "MELTD_SWEEP__INTERVAL_S": "2"},
        overrides={"sweep": {"interval_s": 3}},
    )
    assert settings.drain_s == 1
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 2)
    assert settings.sweep.interval_s == 3
    assert settings.melt.wait_s_default == 30


def test_a_secret_comes_from_variable_file_credential_or_toml_in_that_order(tmp_path: Path) -> None:
    def seed(**environ: str) -> str | None:
        found = load(config=toml, environ=environ).seed
        return found.get_secret_value() if found else None

    toml = write(tmp_path / "c.toml", "seed = 'toml'\n")
    file = write(tmp_path / "file", "file\n")
    write(tmp_path / "meltd-seed", "credential\n")
    assert seed() == "toml"
    assert seed(CREDENTIALS_DIRECTORY=str(tmp_path)) == "credential"
    assert seed(CREDENTIALS_DIRECTORY=str(tmp_path), MELTD_SEED_FILE=str(file)) == "file"
    assert seed(MELTD_SEED_FILE=str(file), MELTD_SEED="variable") == "variable"


def test_a_secret_may_be_named_by_a_file_in_toml_too(tmp_path: Path) -> None:
    uri = write(tmp_path / "uri", "mongodb://u:hunter2@db/\n")
    config = write(tmp_path / "c.toml", f"[mongo]\nuri_file = '{uri}'\n")
    found = load(config=config, environ={}).mongo.uri
    assert found is not None
    assert found.get_secret_value() == "mongodb://u:hunter2@db/"


def test_the_configuration_file_is_named_by_its_variable(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "drain_s = 7\n")
    assert load(environ={"MELTD_CONFIG": str(config)}).drain_s == 7


def test_short_names_stand_beside_the_systematic_ones() -> None:
    environ = {"MELTD_MONGO_URI": "mongodb://db/", "MELTD_SOCKET": "/run/x.sock", "MELTD_SOCKET__ALLOW_UIDS": "0, 1000"}
    settings = load(environ=environ)
    assert settings.mongo.uri is not None
    assert settings.socket_path == Path("/run/x.sock")
    assert settings.socket.allow_uids == (0, 1000)


def test_mints_come_from_all_sources_together(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "[mints.one]\nurl = 'https://one.example'\ncheckstate_batch = 100\n")
    settings = load(config=config, environ=MINT, overrides={"mints": {"two": {"url": "http://127.0.0.1:3338"}}})
    assert sorted(settings.mints) == ["main", "one", "two"]
    assert settings.mints["one"].checkstate_batch == 100


def test_every_problem_is_in_one_list_with_the_nearest_known_name(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "[swep]\nx = 1\n[melt]\npost_timeout = 5\n[mints.main]\nuri = 'x'\n")
    environ = {"MELTD_LOG__LEVLE": "INFO", "MELTD_SWEEP__INTERVAL_S": "soon", "MELTD_SEED_FILE": str(tmp_path / "none")}
    with pytest.raises(ConfigError) as caught:
        load(config=config, environ=environ)
    text = str(caught.value)
    assert "MELTD_LOG__LEVLE: no such setting (did you mean MELTD_LOG__LEVEL?)" in text
    assert "swep: no such setting (did you mean sweep?)" in text
    assert "melt.post_timeout: no such setting (did you mean post_timeout_s?)" in text
    assert "mints.main.uri: no such setting (did you mean url?)" in text
    assert "mints.main.url: Field required" in text
    assert "sweep.interval_s: " in text
    assert "MELTD_SEED_FILE" in text
    assert len(text.splitlines()) == 8


def test_a_problem_never_shows_the_value(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "seed = 77777777\n")
    environ = {"MELTD_MONGO_URI": "http://user:hunter2@db", "MELTD_WEBHOOK__URL": "ftp://token-abc"}
    with pytest.raises(ConfigError) as caught:
        load(config=config, environ=environ)
    assert "mongo.uri: must start with mongodb://" in str(caught.value)
    for secret in ("hunter2", "token-abc", "77777777"):
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value.__cause__)


@pytest.mark.parametrize("text", ["not toml [", "drain_s = 1\ndrain_s = 2"])
def test_a_file_that_is_no_toml_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(config=write(tmp_path / "c.toml", text), environ={})


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(config=tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigError, match="larger than"):
        load(environ={"MELTD_SEED_FILE": str(write(tmp_path / "big", "x" * 5000))})
    with pytest.raises(ConfigError, match="is empty"):
        load(environ={"MELTD_SEED_FILE": str(write(tmp_path / "empty", "\n"))})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(environ={"MELTD_SEED_FILE": str(tmp_path / "binary")})


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://mint.example", True),
        ("https://mint.example:8443/Bitcoin", True),
        ("http://127.0.0.1:3338", True),
        ("http://[::1]:3338", True),
        ("http://localhost:3338", True),
        ("http://10.1.2.3", True),
        ("http://192.168.0.9:3338", True),
        ("http://abcdefghijklmnop.onion", True),
        ("http://mint.example", False),
        ("http://8.8.8.8", False),
        ("http://127.0.0.1.example.com", False),
        ("http://notlocalhost", False),
        ("https://user@mint.example", False),
        ("https://user:pass@mint.example", False),
        ("ftp://mint.example", False),
        ("mint.example", False),
        ("https://", False),
        ("https://mint.example?x=1", False),
        ("https://mint.example/#x", False),
        ("https://mint.example/\n", False),
        ("https://mint.example:99999", False),
    ],
)
def test_which_mint_urls_are_allowed(url: str, *, allowed: bool) -> None:
    overrides = {"mints": {"m": {"url": url}}}
    if allowed:
        assert load(environ={}, overrides=overrides).mints["m"].url == url
    else:
        with pytest.raises(ConfigError, match=r"mints\.m: (url|plain http)"):
            load(environ={}, overrides=overrides)


def test_plain_http_to_anywhere_has_to_be_asked_for() -> None:
    overrides = {"mints": {"m": {"url": "http://mint.example", "allow_insecure": True}}}
    assert load(environ={}, overrides=overrides).mints["m"].allow_insecure


@pytest.mark.parametrize("alias", ["", "Main", "-m", "m.n", "m" * 33, "m\n", "m/n"])
def test_an_alias_is_short_and_plain(alias: str) -> None:
    with pytest.raises(ConfigError, match="alias"):
        load(environ={}, overrides={"mints": {alias: {"url": "https://mint.example"}}})


def test_one_mint_has_one_alias() -> None:
    mints = {"a": {"url": "https://mint.example/"}, "b": {"url": "https://MINT.example:443"}}
    with pytest.raises(ConfigError, match="same url"):
        load(environ={}, overrides={"mints": mints})


@pytest.mark.parametrize(
    "environ",
    [
        {"MELTD_HTTP__PORT": "65536"},
        {"MELTD_SWEEP__INTERVAL_S": "0"},
        {"MELTD_SWEEP__INTERVAL_S": "nan"},
        {"MELTD_SWEEP__INTERVAL_S": "inf"},
        {"MELTD_SWEEP__SPENT_SAMPLE_SHARE": "1.1"},
        {"MELTD_STORE__WORKERS": "0"},
        {"MELTD_LOG__FORMAT": "xml"},
        {"MELTD_SOCKET__MODE": "888"},
        {"MELTD_SOCKET__ALLOW_UIDS": "root"},
        {"MELTD_MELT__WAIT_S_DEFAULT": "500"},
        {"MELTD_MELT__IN_FLIGHT_PER_MINT_MAX": "65"},
        {"MELTD_MONGO__DATABASE": "a/b"},
        {"MELTD_MELT": "{}"},
    ],
)
def test_values_out_of_bounds_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        load(environ=environ)


@pytest.mark.parametrize("text", ["0660", "660", "0o660"])
def test_a_file_mode_is_octal(text: str) -> None:
    assert load(environ={"MELTD_SOCKET__MODE": text}).socket.mode == 0o660


def test_a_daemon_needs_exactly_one_store() -> None:
    with pytest.raises(ConfigError, match="no database"):
        load(environ={}).require_runnable()
    with pytest.raises(ConfigError, match="choose one"):
        load(environ={"MELTD_MONGO_URI": "mongodb://db/", "MELTD_EMBEDDED": "true"}).require_runnable()
    load(environ={"MELTD_MONGO_URI": "mongodb://db/"}).require_runnable()
    embedded = load(environ={"MELTD_EMBEDDED": "1"})
    embedded.require_runnable()
    assert not embedded.retry_writes
    assert load(environ={"MELTD_MONGO_URI": "mongodb://db/"}).retry_writes


def test_the_dump_for_the_log_holds_no_secret() -> None:
    environ = {
        "MELTD_SEED": SEED,
        "MELTD_MONGO_URI": "mongodb+srv://meltd:hunter2@db.example/?authMechanismProperties=AWS_SESSION_TOKEN:tok",
        "MELTD_WEBHOOK__URL": "https://hooks.example/token-abc",
    } | MINT
    settings = load(environ=environ)
    for text in (json.dumps(settings.masked_dump()), repr(settings), str(settings.model_dump())):
        for secret in ("abandon", "hunter2", "token-abc", ":tok"):
            assert secret not in text
    dump = settings.masked_dump()
    assert dump["mongo"]["uri"] == "mongodb+srv://***@db.example/?***"
    assert dump["mints"]["main"]["url"] == "https://mint.example"
    assert dump["socket"]["mode"] == "0660"


def test_a_uri_that_is_none_is_masked_whole() -> None:
    assert mask_uri("mongodb://[half") == "***"


def test_settings_never_change_after_loading() -> None:
    settings = load(environ={})
    with pytest.raises(Exception, match="frozen"):
        settings.drain_s = 1


def test_the_socket_lies_in_the_runtime_directory_else_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    settings = load(environ={}, overrides={"data_dir": "/tmp/d"})
    assert settings.socket_path == Path("/tmp/d/meltd.sock")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/meltd:/run/other")
    assert settings.socket_path == Path("/run/meltd/meltd.sock")


def test_the_data_directory_is_the_services_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_data_dir({"STATE_DIRECTORY": "/var/lib/meltd-2:/x"}) == Path("/var/lib/meltd-2")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_data_dir({"XDG_STATE_HOME": "/home/u/.state"}) == Path("/home/u/.state/meltd")


def test_the_documentation_is_what_the_model_says() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == markdown(), "run: python -m daemon.settings --markdown > docs/configuration.md"
