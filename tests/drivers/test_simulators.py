"""The simulators' facts, one by one, as the providers' documents state them."""

import json
from typing import Any

import pytest

from rotation.simulators import ControlError, RunningSimulator, SimulatorClient, running
from tests.drivers.calls import Reply, Start, call, new_key

pytestmark = pytest.mark.once

IMAGE = b'--b\r\nContent-Disposition: form-data; name="image_file"; filename="a.jpg"\r\n\r\nx\r\n--b--\r\n'
PROCESS = "/v3/tools/ai/remove-bg/process/"


# -- BackgroundErase --------------------------------------------------------------------------------------


@pytest.fixture
def erase(start: Start) -> RunningSimulator:
    return start("backgrounderase")


def test_erase_takes_the_key_in_x_api_key_or_as_bearer(erase: RunningSimulator) -> None:
    key = new_key(erase)
    for headers in ({"x_api_key": key}, {"X_API_KEY": key}, {"Authorization": f"Bearer {key}"}):
        reply = call(erase, "POST", "/v2", IMAGE, **headers)
        assert reply.status == 200
        assert reply.headers["content-type"] == "image/png"
        assert reply.body.startswith(b"\x89PNG")
    assert call(erase, "POST", "/v2", IMAGE, Authorization=f"bearer  {key}").status == 200
    assert call(erase, "POST", "/v2", IMAGE, Authorization=f"Token {key}").status == 401


@pytest.mark.parametrize(
    "headers", [{}, {"x_api_key": ""}, {"x_api_key": "  "}, {"Authorization": "Bearer "}]
)
def test_erase_calls_no_or_a_blank_key_missing(erase: RunningSimulator, headers: dict[str, str]) -> None:
    reply = call(erase, "POST", "/v2", IMAGE, **headers)
    assert reply.status == 401
    assert reply.json == {
        "error": {
            "code": "missing_api_key",
            "message": "Missing API key.",
            "status": 401,
            "request_id": reply.headers["x-request-id"],
        }
    }


def test_erase_calls_a_wrong_and_a_revoked_key_the_same(erase: RunningSimulator) -> None:
    made = erase.control.create_key("ours")
    erase.control.revoke(made.id)
    for text in (made.value.expose(), "be_wrong", f'"{made.value.expose()}"', "YOUR_API_KEY"):
        reply = call(erase, "POST", "/v2", IMAGE, x_api_key=text)
        error = reply.json["error"]
        assert (reply.status, error["code"]) == (401, "invalid_api_key")
        assert error["message"] == "Invalid or revoked API key."
        assert error["request_id"] == reply.headers["x-request-id"]


def test_erase_checks_the_key_before_the_image(erase: RunningSimulator) -> None:
    assert call(erase, "POST", "/v2", b"garbage", x_api_key="be_wrong").status == 401
    reply = call(erase, "POST", "/v2", b"garbage", x_api_key=new_key(erase))
    assert reply.status == 400
    assert reply.headers["x-request-id"]


def test_erase_without_a_plan_knows_no_key_and_makes_none(erase: RunningSimulator) -> None:
    key = new_key(erase)
    erase.control.set_fault(plan_lapsed=True)
    assert call(erase, "POST", "/v2", IMAGE, x_api_key=key).json["error"]["code"] == "invalid_api_key"
    with pytest.raises(ControlError) as caught:
        SimulatorClient(erase.base_url).create_key("another")
    assert caught.value.status == 403
    erase.control.set_fault(plan_lapsed=False)
    assert call(erase, "POST", "/v2", IMAGE, x_api_key=key).status == 200


def test_erase_has_no_management_api_but_shows_a_key_again(erase: RunningSimulator) -> None:
    assert (
        call(erase, "GET", "/_manage/keys", Authorization="Bearer x").json["error"]["code"]
        == "invalid_api_key"
    )
    client = SimulatorClient(erase.base_url)
    made = client.create_key("ours")
    assert client.copy_key(made.id).value == made.value
    with pytest.raises(ControlError):
        client.admin_secret()


# -- Removit ----------------------------------------------------------------------------------------------


@pytest.fixture
def removit(start: Start) -> RunningSimulator:
    return start("removit")


def test_removit_uploads_then_answers_polls_and_asks_for_the_key_each_time(removit: RunningSimulator) -> None:
    key = new_key(removit)
    job = {"file_url": "https://example.com/image.jpg", "mode": "background"}
    for headers in ({"X_API_Key": key}, {"Authorization": f"Bearer {key}"}):
        reply = call(removit, "POST", "/api/v1/upload", job, **headers)
        assert reply.status == 202
        path = f"/api/v1/status?job_id={reply.json['job_id']}"
        assert call(removit, "GET", path, **headers).json["status"] == "processing"
        assert call(removit, "GET", path, **headers).json["status"] == "completed"
        assert call(removit, "GET", path).status == 401
    assert call(removit, "POST", "/api/v1/upload", job).status == 401


def test_removit_says_the_same_flat_401_for_missing_and_invalid(removit: RunningSimulator) -> None:
    expected = {"error": "unauthorized", "message": "API key missing"}
    for headers in ({}, {"X_API_Key": ""}, {"X_API_Key": "rmv_wrong"}, {"Authorization": "Token rmv_wrong"}):
        reply = call(removit, "GET", "/api/v1/status?job_id=1", **headers)
        assert (reply.status, reply.json) == (401, expected)
        assert "x-request-id" not in reply.headers


def test_removit_wants_json_for_a_url_and_a_file_otherwise(removit: RunningSimulator) -> None:
    key = new_key(removit)
    url = json.dumps({"file_url": "https://example.com/i.jpg"}).encode()
    assert call(removit, "POST", "/api/v1/upload", url, X_API_Key=key).status == 400
    assert call(removit, "POST", "/api/v1/upload", {"mode": "background"}, X_API_Key=key).status == 400
    kind = "multipart/form-data; boundary=b"
    assert call(removit, "POST", "/api/v1/upload", IMAGE, X_API_Key=key, Content_Type=kind).status == 202


# -- RemoveBGVideo ----------------------------------------------------------------------------------------


@pytest.fixture
def video(start: Start) -> RunningSimulator:
    return start("removebgvideo")


def test_video_asks_for_a_key_below_v1_only(video: RunningSimulator) -> None:
    assert call(video, "GET", "/api/jobs").status == 200
    assert call(video, "GET", "/api/jobs", X_Api_Key="rbv_wrong").status == 200
    reply = call(video, "POST", "/v1/jobs", {})
    assert (reply.status, reply.json["error"]) == (401, "missing_api_key")
    reply = call(video, "POST", "/v1/jobs", {}, X_Api_Key="rbv_wrong")
    assert (reply.status, reply.json["error"]) == (401, "invalid_api_key")
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    reply = call(video, "POST", "/v1/jobs", {}, Authorization=f"Bearer {new_key(video)}")
    assert reply.json["error"] == "missing_api_key"


def test_video_shows_a_job_to_the_key_that_made_it_only(video: RunningSimulator) -> None:
    first, second = new_key(video), new_key(video)
    job = call(video, "POST", "/v1/jobs", {}, X_Api_Key=first).json["job_id"]
    assert call(video, "GET", f"/v1/jobs/{job}", X_Api_Key=first).json["status"] == "processing"
    foreign = call(video, "GET", f"/v1/jobs/{job}", X_Api_Key=second)
    unknown = call(video, "GET", "/v1/jobs/nothing", X_Api_Key=second)
    assert (foreign.status, foreign.json["error"]) == (404, "Job not found")
    assert {**foreign.json, "request_id": ""} == {**unknown.json, "request_id": ""}
    assert call(video, "GET", f"/v1/jobs/{job}", X_Api_Key=first).json["status"] == "completed"


def test_video_limits_the_rate_of_each_key_on_its_own() -> None:
    now = [1_000.0]
    with running("removebgvideo", clock=lambda: now[0]) as video:
        video.control.set_fault(rate_per_second=3)
        first, second = new_key(video), new_key(video)
        statuses = [call(video, "GET", "/v1/jobs/x", X_Api_Key=first).status for _ in range(5)]
        assert statuses == [404, 404, 404, 429, 429]
        limited = call(video, "GET", "/v1/jobs/x", X_Api_Key=first)
        assert limited.headers["retry-after"] == "1"
        assert call(video, "GET", "/v1/jobs/x", X_Api_Key=second).status == 404
        now[0] += 1.0
        assert call(video, "GET", "/v1/jobs/x", X_Api_Key=first).status == 404


# -- BackgroundCut ----------------------------------------------------------------------------------------


@pytest.fixture
def cut(start: Start) -> RunningSimulator:
    return start("backgroundcut")


def mint(sim: RunningSimulator, key: str, **body: Any) -> Reply:
    return call(sim, "POST", "/v3/auth/access-token/", body, Authorization=f"Token {key}")


def test_cut_takes_the_key_as_token_only(cut: RunningSimulator) -> None:
    key = new_key(cut)
    assert call(cut, "GET", "/v3/files/none", Authorization=f"Token {key}").status == 404
    assert call(cut, "GET", "/v3/files/none", Authorization=f"token {key}").status == 404
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"X_API_Key": key},
        {"Authorization": f"AccessToken {key}"},
    ):
        assert call(cut, "GET", "/v3/files/none", **headers).status == 401


@pytest.mark.parametrize("seconds", [1, 60, 600])
def test_cut_mints_tokens_for_one_second_to_ten_minutes(cut: RunningSimulator, seconds: int) -> None:
    reply = mint(cut, new_key(cut), expires_in=seconds)
    assert reply.status == 200
    assert list(reply.json) == ["access_token"]
    assert reply.json["access_token"].startswith("eyJ")


@pytest.mark.parametrize("seconds", [0, -1, 601, "60", 1.5, None, True])
def test_cut_refuses_any_other_life(cut: RunningSimulator, seconds: object) -> None:
    assert mint(cut, new_key(cut), expires_in=seconds).status == 400


@pytest.mark.parametrize("paths", [[], "*", [7], None, [""]])
def test_cut_refuses_odd_paths(cut: RunningSimulator, paths: object) -> None:
    assert mint(cut, new_key(cut), paths=paths).status == 400


def test_cut_tokens_live_sixty_seconds_and_everywhere_by_default() -> None:
    now = [1_000.0]
    with running("backgroundcut", clock=lambda: now[0]) as cut:
        token = mint(cut, new_key(cut)).json["access_token"]
        now[0] += 59.9
        assert call(cut, "GET", "/v3/files/none", Authorization=f"AccessToken {token}").status == 404
        assert call(cut, "POST", PROCESS, {}, Authorization=f"AccessToken {token}").status == 400
        now[0] += 0.1
        assert call(cut, "GET", "/v3/files/none", Authorization=f"AccessToken {token}").status == 401


def test_cut_refuses_a_token_outside_its_paths_with_401(cut: RunningSimulator) -> None:
    paths = ["/v3/file-ops/upload/", "/v3/files/*"]
    token = mint(cut, new_key(cut), paths=paths).json["access_token"]
    allowed = {"Authorization": f"AccessToken {token}"}
    assert call(cut, "GET", "/v3/files/a/b.png", **allowed).status == 404
    assert call(cut, "POST", "/v3/file-ops/upload/", b"", **allowed).status == 400
    for path in (PROCESS, "/v3/files", "/v3/files/../auth/", "/v3/files/%2e%2e/x", "/v3/file-ops/upload"):
        assert call(cut, "POST", path, {}, **allowed).status == 401
    assert call(cut, "POST", "/v3/auth/access-token/", {}, **allowed).status == 401
    assert call(cut, "GET", "/v3/files/a", Authorization=f"Token {token}").status == 401
    assert call(cut, "GET", "/v3/files/a", Authorization=f"AccessToken {token}x").status == 401
    assert call(cut, "GET", "/v3/files/a", Authorization="AccessToken ").status == 401


def test_cut_tokens_die_with_their_key(cut: RunningSimulator) -> None:
    made = cut.control.create_key("ours")
    token = mint(cut, made.value.expose()).json["access_token"]
    cut.control.revoke(made.id)
    assert call(cut, "GET", "/v3/files/none", Authorization=f"AccessToken {token}").status == 401


def test_cut_uploads_processes_and_fetches_with_one_token(cut: RunningSimulator) -> None:
    key = new_key(cut)
    auth = {"Authorization": f"AccessToken {mint(cut, key, expires_in=600).json['access_token']}"}
    form = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="p.jpg"\r\n\r\nx\r\n'
        b'--b\r\nContent-Disposition: form-data; name="upload_path"\r\n\r\nmine\r\n--b--\r\n'
    )
    kind = "multipart/form-data; boundary=b"
    (path,) = call(cut, "POST", "/v3/file-ops/upload/", form, Content_Type=kind, **auth).json["file_paths"]
    assert path.startswith("mine/")
    wanted = {"input_file_path": path, "output_variants": [{"output_file_path": "mine/result.png"}]}
    assert call(cut, "POST", PROCESS, wanted, **auth).json == {"output_file_paths": ["mine/result.png"]}
    assert call(cut, "GET", "/v3/files/mine/result.png", **auth).status == 200
    other = {"Authorization": f"Token {new_key(cut)}"}
    assert call(cut, "GET", "/v3/files/mine/result.png", **other).status == 404
