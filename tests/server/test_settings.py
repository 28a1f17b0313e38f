"""Settings: every variable is read as the table says, and a bad value names itself."""

import re
from pathlib import Path

import pytest

from server.settings import NO_MODEL, Settings, SettingsError, environment_table, read_settings
from server.variables import KEYS, NVIDIA_ONNX_PROFILES, VARIABLES

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}

BAD_VALUES = {
    "ENABLE_MOCK_INFERENCE": ["maybe", "2"],
    "NIM_CUSTOM_MODEL": ["/no/such/directory"],
    "RERANK_MODEL_DIR": ["/no/such/directory", __file__, "/dev/zero", "/" + "x" * 5000],
    "EMBED_MODEL_DIR": ["/no/such/directory"],
    "RERANK_MODEL_PROFILE": ["no-such-profile", "../models"],
    "NIM_MODEL_PROFILE": ["fp8", "0" * 64, "triton"],
    "NIM_TRITON_MAX_BATCH_SIZE": ["0", "-1", "1.5", "many", "9" * 5000, "٣"],
    "NIM_TRITON_MODEL_BATCH_SIZE": ["0"],
    "RERANK_MAX_PASSAGES": ["0", "all"],
    "EMBED_MAX_INPUTS": ["0", "many"],
    "EMBED_DEFAULT_INPUT_TYPE": ["document", "Query"],
    "MAX_SEQUENCE_LENGTH": ["0", "8k"],
    "NIM_TRITON_MAX_SEQ_LENGTH": ["none"],
    "RERANK_GPU_MEMORY_BYTES": ["8GB", "0"],
    "NIM_TRT_ENGINE_HOST_CODE_ALLOWED": ["perhaps"],
    "NIM_HTTP_BODY_LIMIT_BYTES": ["64MB", "0"],
    "NIM_SERVER_HTTP_BODY_LIMIT_BYTES": ["0"],
    "NIM_MAX_IMAGE_BYTES": ["0", "8MB"],
    "NIM_SERVER_MAX_IMAGE_BYTES": ["0"],
    "RERANK_IMAGE_MAX_PIXELS": ["0", "4k"],
    "RERANK_IMAGE_MAX_TILES": ["0", "all"],
    "RERANK_IMAGE_CACHE_BYTES": ["-1", "1GB"],
    "NIM_REQUEST_TIMEOUT_S": ["0", "2m"],
    "NIM_SERVER_REQUEST_TIMEOUT_S": ["never"],
    "NIM_MAX_QUEUE_SIZE": ["-5"],
    "NIM_TRITON_DYNAMIC_BATCHING_MAX_QUEUE_DELAY_MICROSECONDS": ["-1", "2000000", "soon"],
    "NIM_SERVER_MAX_QUEUE_SIZE": ["x"],
    "RERANK_MAX_QUEUE_TOKENS": ["0", "4M"],
    "RERANK_ENGINE_PATIENCE_S": ["0"],
    "RERANK_HEADER_TIMEOUT_S": ["0.5"],
    "RERANK_DRAIN_TIMEOUT_S": ["-1"],
    "RERANK_ALLOWED_HOSTS": [",", "a.example:8000", "*.example"],
    "RERANK_MODEL_CONTROL": ["explicit"],
    "RERANK_OVERLOAD_STATUS": ["500", "0503"],
    "RERANK_PLAIN_SPECIAL_TOKENS": ["maybe"],
    "RERANK_TOO_LONG_STATUS": ["413"],
    "NIM_HTTP_API_PORT": ["0", "65536", "http"],
    "NIM_SERVER_PORT": ["0"],
    "NIM_BIND_ADDR": ["8000", ":8000", "host:port"],
    "NIM_SERVER_BIND_ADDR": ["localhost"],
    "NIM_TRITON_METRICS_PORT": ["65536", "off"],
    "NIM_TRITON_GRPC_PORT": ["65536", "off"],
    "NIM_GRPC_API_PORT": ["-1"],
    "NIM_HTTP_TRITON_PORT": ["x"],
    "RERANK_UI": ["maybe"],
    "TRITON_HTTP_ENDPOINT": ["grpc://127.0.0.1:8003", "http://", "http://user@host"],
    "TRITON_GRPC_ENDPOINT": ["http://127.0.0.1:8004", "grpcs://"],
    "NIM_REQUIRE_AUTH": ["true", "perhaps"],
    "NIM_LOG_LEVEL": ["VERBOSE", "20", "NOTSET", "WARN ING"],
    "LOG_LEVEL": ["loud", "INFO,DEBUG"],
    "NIM_JSONL_LOGGING": ["json"],
    "NIM_LOGGING_JSONL": ["2"],
    "LOG_FORMAT": ["xml"],
    "NIM_ENABLE_OTEL": ["otlp"],
    "NIM_TLS_CERT_PATH": ["/cert.pem"],
    "NIM_TLS_KEY_PATH": ["/key.pem"],
    "NIM_MODEL_PATH": ["/model"],
    "NIM_ENGINE_MODEL_PATH": ["/model"],
    "NIM_ENGINE_MODEL_DOWNLOAD_ONLY": ["1"],
}
ANY_TEXT = {
    "NIM_CACHE_PATH",
    "NIM_SERVED_MODEL_NAME",
    "NIM_SERVER_SERVED_MODEL_NAME",
    "MODEL_VERSION",
    "NGC_API_KEY",
    "NVIDIA_API_KEY",
    "NIM_NGC_API_KEY",
    # Read when tracing is on, see test_tracing.py.
    "NIM_OTEL_*",
    "OTEL_*",
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BAD_VALUES.items() for v in values]
)
def test_a_bad_value_stops_the_start_and_names_itself(name: str, value: str) -> None:
    mock = {} if name.endswith(("_DIR", "CUSTOM_MODEL")) else MOCK
    with pytest.raises(SettingsError) as caught:
        read_settings({**mock, name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: found ")
    assert "wanted " in message
    assert "\n" not in message
    assert len(message) < 700


def test_every_variable_that_can_be_wrong_is_tried_above() -> None:
    untried = {v.name for v in VARIABLES if v.fate != "tolerated"} - set(BAD_VALUES) - ANY_TEXT
    assert not untried


def test_nothing_to_serve_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"NIM_CUSTOM_MODEL.*--rank DIR"):
        read_settings({})


def test_empty_means_not_set() -> None:
    names = {v.name: " " for v in VARIABLES if not v.name.endswith("*")}
    assert read_settings({**names, **MOCK}) == read_settings(MOCK)


def test_what_nvidia_s_compose_files_set_does_not_upset_the_start() -> None:
    settings = read_settings(
        MOCK
        | {
            "NGC_API_KEY": "ngcapikey",
            "NIM_TRITON_LOG_VERBOSE": "1",
            "NIM_TRITON_MAX_BATCH_SIZE": "1",
            "OMP_NUM_THREADS": "1",
            "NIM_CACHE_PATH": "/model-store",
            "NIM_SERVER_PORT": "8000",
            "NIM_HTTP_API_PORT": "8000",
            "NIM_JSONL_LOGGING": "1",
            "NIM_ENABLE_OTEL": "true",
            "NIM_OTEL_SERVICE_NAME": "reranker",
        }
    )
    assert settings.keys == ()
    assert (settings.max_rows, settings.max_passages) == (1, 1)
    assert settings.json_logs
    names = {notice.split()[0] for notice in settings.notices}
    assert names == {
        "NIM_TRITON_LOG_VERBOSE",
        "OMP_NUM_THREADS",
    }
    assert settings.tracing
    assert settings.otel == {"OTEL_SERVICE_NAME": "reranker"}


@pytest.mark.parametrize(
    ("given", "rows", "passages", "inputs"),
    [
        ({}, None, 64, 30),
        ({"NIM_TRITON_MAX_BATCH_SIZE": "8"}, 8, 8, 8),
        ({"NIM_TRITON_MAX_BATCH_SIZE": "128"}, 128, 64, 128),
        ({"RERANK_MAX_PASSAGES": "512"}, None, 512, 30),
        ({"EMBED_MAX_INPUTS": "8192"}, None, 64, 8192),
        ({"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "512"}, 1, 512, 1),
        ({"NIM_TRITON_MODEL_BATCH_SIZE": "4"}, 4, 4, 4),
    ],
)
def test_rows_of_a_call_and_texts_of_a_request(
    given: dict[str, str], rows: int | None, passages: int, inputs: int
) -> None:
    settings = read_settings({**MOCK, **given})
    found = (settings.max_rows, settings.max_passages, settings.embed_max_inputs)
    assert found == (rows, passages, inputs)


def directories(settings: Settings) -> tuple[Path | None, Path | None, Path | None]:
    return settings.custom_dir, settings.rank_dir, settings.embed_dir


def test_where_the_models_are(tmp_path: Path) -> None:
    option, custom, rank, embed = (tmp_path / n for n in ("option", "custom", "rank", "embed"))
    for directory in (option, custom, rank, embed):
        directory.mkdir()
    environment = {"RERANK_MODEL_DIR": str(rank)}
    assert directories(read_settings(environment)) == (rank, None, None)
    environment["EMBED_MODEL_DIR"] = str(embed)
    assert directories(read_settings(environment)) == (rank, None, embed)
    environment["NIM_CUSTOM_MODEL"] = str(custom)
    replaced = read_settings(environment)
    assert directories(replaced) == (custom, None, None)
    assert {notice.split()[0] for notice in replaced.notices} == {
        "RERANK_MODEL_DIR",
        "EMBED_MODEL_DIR",
    }
    given = {"--rank": str(option)}
    assert directories(read_settings(environment, given)) == (None, option, None)
    given["--embed"] = str(embed)
    assert directories(read_settings(environment, given)) == (None, option, embed)
    for name in ("--rank", "--embed"):
        with pytest.raises(SettingsError, match=f"^{name}: "):
            read_settings({}, {name: str(tmp_path / "missing")})


def test_an_image_s_own_directory_may_be_missing_when_another_is_named(tmp_path: Path) -> None:
    environment = {"RERANK_MODEL_DIR": "/not/mounted", "NIM_CUSTOM_MODEL": str(tmp_path)}
    assert read_settings(environment).custom_dir == tmp_path


def test_an_image_s_own_directory_does_not_count_until_a_model_is_there(tmp_path: Path) -> None:
    own, embed = tmp_path / "own", tmp_path / "embed"
    for directory in (own, embed):
        directory.mkdir()
    environment = {"RERANK_MODEL_DIR": str(own), "EMBED_MODEL_DIR": str(embed)}
    assert directories(read_settings(environment)) == (own, None, embed)  # a mount that is empty
    (own / NO_MODEL).touch()
    assert directories(read_settings(environment)) == (None, None, embed)
    with pytest.raises(SettingsError, match="found nothing to serve"):
        read_settings({"RERANK_MODEL_DIR": str(own)})
    (own / "manifest.json").touch()  # a volume begins with what the image has at its place
    assert directories(read_settings(environment)) == (own, None, embed)


def test_the_first_synonym_counts_and_the_other_is_logged() -> None:
    settings = read_settings({**MOCK, "NIM_LOG_LEVEL": "info", "LOG_LEVEL": "DEBUG"})
    assert settings.log_level == "INFO"
    assert settings.notices == ("LOG_LEVEL has no effect: NIM_LOG_LEVEL is set as well",)


@pytest.mark.parametrize("name", ["NIM_LOG_LEVEL", "LOG_LEVEL"])
@pytest.mark.parametrize(
    ("word", "level"),
    [("DEFAULT", "INFO"), ("TRACE", "DEBUG"), ("warn", "WARNING"), ("Fatal", "CRITICAL")],
)
def test_other_words_for_levels_are_taken_with_a_note(name: str, word: str, level: str) -> None:
    settings = read_settings({**MOCK, name: word})
    assert settings.log_level == level
    assert settings.notices == (f"{name}={word} is taken for {level}",)


@pytest.mark.parametrize("word", ["debug", "Info", " WARNING ", "ERROR", "critical"])
def test_levels_are_taken_as_they_are(word: str) -> None:
    settings = read_settings({**MOCK, "NIM_LOG_LEVEL": word})
    assert settings.log_level == word.strip().upper()
    assert settings.notices == ()


@pytest.mark.parametrize(
    ("given", "listens"),
    [
        ({}, ("0.0.0.0", 8000)),
        ({"NIM_SERVER_PORT": "9000"}, ("0.0.0.0", 9000)),
        ({"NIM_BIND_ADDR": "127.0.0.1:9000"}, ("127.0.0.1", 9000)),
        ({"NIM_BIND_ADDR": "[::1]:9000"}, ("::1", 9000)),
        ({"NIM_BIND_ADDR": "127.0.0.1:9000", "NIM_HTTP_API_PORT": "9001"}, ("127.0.0.1", 9001)),
    ],
)
def test_where_it_listens(given: dict[str, str], listens: tuple[str, int]) -> None:
    settings = read_settings({**MOCK, **given})
    assert (settings.host, settings.port) == listens


def test_options_go_before_variables() -> None:
    environment = {**MOCK, "NIM_HTTP_API_PORT": "9000", "NIM_BIND_ADDR": "127.0.0.1:9001"}
    settings = read_settings(environment, {"--host": "::1", "--port": "9002"})
    assert (settings.host, settings.port) == ("::1", 9002)
    with pytest.raises(SettingsError, match=r"^--port: "):
        read_settings(environment, {"--port": "99999"})


@pytest.mark.parametrize(
    ("profile", "target"),
    [("auto", "auto"), ("cpu-fp32", "cpu-fp32"), (NVIDIA_ONNX_PROFILES[0], "onnx")],
)
def test_a_model_profile_names_the_target(profile: str, target: str) -> None:
    settings = read_settings({**MOCK, "NIM_MODEL_PROFILE": profile})
    assert settings.target == target
    assert any("best hardware" in n for n in settings.notices) == (len(profile) == 64)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"^NGC_API_KEY: found bytes"):
        read_settings({**MOCK, "NGC_API_KEY": "\udcff"})


def test_keys_are_asked_for_only_when_wanted_and_never_shown() -> None:
    keys = {"NGC_API_KEY": "secret-1", "NVIDIA_API_KEY": "secret-2", "NIM_NGC_API_KEY": "secret-1"}
    assert read_settings({**MOCK, **keys}).keys == ()
    settings = read_settings({**MOCK, **keys, "NIM_REQUIRE_AUTH": "true"})
    assert settings.keys == ("secret-1", "secret-2")
    assert "secret" not in repr(settings)


def test_the_key_of_nvidia_s_examples_is_warned_of() -> None:
    dummy = {"NGC_API_KEY": "ngcapikey", "NIM_REQUIRE_AUTH": "true"}
    assert any("NIM_REQUIRE_AUTH" in n for n in read_settings({**MOCK, **dummy}).notices)


def test_refused_variables_may_be_switched_off() -> None:
    assert read_settings({**MOCK, "NIM_ENGINE_MODEL_DOWNLOAD_ONLY": "0"})


def test_the_table_names_every_variable_once() -> None:
    names = re.findall(
        r"^\| `([^`]+)` \| (?:honoured|tolerated|refused) \|", environment_table(), re.M
    )
    assert names == [v.name for v in VARIABLES]
    assert len(set(names)) == len(names)
    assert all(v.effect for v in VARIABLES)
    exact = [v for v in VARIABLES if not v.name.endswith("*") and v.name not in KEYS]
    assert all((v.field is None) == (v.fate != "honoured") for v in exact)


def test_a_tritons_address_is_its_engines() -> None:
    for name, value, engine in (
        ("TRITON_HTTP_ENDPOINT", "http://127.0.0.1:8003", "triton=http://127.0.0.1:8003"),
        ("TRITON_GRPC_ENDPOINT", "127.0.0.1:8004", "triton=grpc://127.0.0.1:8004"),
        ("TRITON_GRPC_ENDPOINT", "grpcs://triton:8004", "triton=grpcs://triton:8004"),
    ):
        assert read_settings({**MOCK, name: value}).triton_engine == engine
