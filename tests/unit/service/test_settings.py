"""Protects the service's settings: every one documented, bounded, secret where it should be, and read in order."""

from pathlib import Path

import pytest

from anykey.program.settings import UsageError, load_settings
from anykey.service.embedding.batcher import BatcherCounters
from anykey.service.embedding.cache import CacheCounters
from anykey.service.schemas import Limits
from anykey.service.settings import ServiceSettings

OPERATIONS = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [f"batcher.{name}" for name in vars(BatcherCounters())] + [f"cache.{name}" for name in vars(CacheCounters())],
)
def test_every_counter_is_documented(name: str) -> None:
    assert f"`{name}`" in OPERATIONS


def test_every_limit_on_the_wire_is_a_setting() -> None:
    assert Limits.model_fields.keys() <= ServiceSettings.model_fields.keys()


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "service.toml"
    file.write_text("max_k = 10\nport = 10\nretry_after_s = 10\n")
    monkeypatch.setenv("ANYKEY_MAX_K", "20")
    monkeypatch.setenv("ANYKEY_PORT", "20")
    settings = load_settings(ServiceSettings, "anykey-serve", ["--config", str(file), "--max-k", "30"])
    assert (settings.max_k, settings.port, settings.retry_after_s, settings.max_images) == (30, 20, 10, 8)


def test_another_programs_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYKEY_INDEX_OUTPUT", "/elsewhere")
    monkeypatch.setenv("ANYKEY_TRAIN_SEED", "5")
    assert load_settings(ServiceSettings, "anykey-serve", []).index == "indexes/demo"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "-1"),
        ("--max-wait-ms", "-1"),
        ("--max-queue-items", "0"),
        ("--precision", "fp8"),
        ("--backend", "tensorrt"),
        ("--port", "http"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(flag: str, value: str) -> None:
    with pytest.raises(UsageError, match=flag[2:].replace("-", "_")):
        load_settings(ServiceSettings, "anykey-serve", [flag, value])


def test_the_password_of_redis_is_never_shown() -> None:
    settings = ServiceSettings(redis_url="redis://:hunter2@host:6379/0")
    assert "hunter2" not in f"{settings!r} {settings.model_dump(mode='json')}"


def test_the_token_of_milvus_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYKEY_MILVUS_TOKEN", "root:hunter2")
    settings = load_settings(ServiceSettings, "anykey-serve", ["--index", "http://milvus:19530/products"])
    assert settings.milvus_token is not None
    assert settings.milvus_token.get_secret_value() == "root:hunter2"
    assert "hunter2" not in f"{settings!r} {settings.model_dump(mode='json')}"


@pytest.mark.parametrize(
    "index", ["http://milvus:19530", "http://root:hunter2@milvus:19530/products", "s3://bucket/index"]
)
def test_an_address_that_names_no_collection_is_refused(index: str) -> None:
    with pytest.raises(UsageError, match="index") as caught:
        load_settings(ServiceSettings, "anykey-serve", ["--index", index])
    assert "hunter2" not in str(caught.value)


def test_lists_are_read_from_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYKEY_CORS_ORIGINS", "http://a.example, http://b.example")
    settings = load_settings(ServiceSettings, "anykey-serve", [])
    assert settings.cors_origins == ["http://a.example", "http://b.example"]
