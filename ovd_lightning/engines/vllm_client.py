"""One vLLM server that samples for the student: what is asked of it, and its answers, validated. Written against 0.32.

Completions come from ``/inference/v1/generate``: token ids in and out, and the version of the weights that sampled each
token. The endpoints for weights are those of vLLM's development mode.
"""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import urlsplit

from ovd_lightning.engines.endpoint import Endpoint, Failure
from ovd_lightning.engines.protocol import FLOOR, BadAnswer
from ovd_lightning.engines.vllm_sampling import Sampled
from ovd_lightning.errors import RunError
from ovd_lightning.service import Call

WORKER = "ovd_lightning.engines.vllm_worker.StudentWorker"
"""As vLLM names the class that it mixes into its workers."""
UNTRAINED = "default"
"""The version that a server starts with: the weights of the checkpoint that it was started with."""
CHECK_S = 30.0
"""Patience with an answer before a run."""
LOCAL = ("localhost", "127.0.0.1", "::1")


class VLLMServer(Endpoint):
    """Requests to one server, retried and limited as those of other endpoints.

    Args:
        url: of the server, with or without ``/v1``.
    """

    def __init__(self, url: str, key: str, **service: Any) -> None:
        self.root = url.rstrip("/").removesuffix("/v1")
        self.workers = 1
        """Processes that hold a part of the model; known once the server was asked."""
        super().__init__(f"{self.root}/v1", key, requests_per_minute=None, **service)
        self._answers = False

    def classify(self, error: Exception) -> Failure | None:
        failure = super().classify(error)
        self._answers = failure is not None and failure.status is not None
        return failure

    def exhausted(self, attempts: int, retries: int, failing_since: float) -> bool:
        """Patience is for a server that is away; one that answers with an error will do so again."""
        return super().exhausted(attempts, retries, failing_since) or (attempts > retries and self._answers)

    @property
    def port(self) -> int:
        return urlsplit(self.root).port or 80

    @property
    def local(self) -> bool:
        return urlsplit(self.root).hostname in LOCAL

    # -- completions

    def sampling(self, prompt: list[int], parameters: dict[str, Any]) -> Call:
        """A request whose answer is a `Sampled`.

        Args:
            parameters: of ``vllm.SamplingParams``.
        """

        async def send(client: Any) -> Sampled:
            body = {"token_ids": prompt, "sampling_params": parameters}
            return read_sampled(await _post(client, f"{self.root}/inference/v1/generate", body), parameters)

        return send

    # -- weights

    def control(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """The answer of a control endpoint. Raises: RunError, with the server's reason."""

        async def send(client: Any) -> Any:
            return await self.ask(client, path, body, **query)

        return self.done(self.send([send])[0])

    def done(self, answer: Any) -> Any:
        """The answer. Raises: RunError where it is a Failure."""
        if isinstance(answer, Failure):
            raise RunError(f"the vLLM server at {self.root} failed: {answer.reason}")
        return answer

    async def ask(self, client: Any, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """One request: a GET for paths that only tell something."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        url = f"{self.root}/{path}{'?' * bool(words)}{words}"
        data = await (_get(client, url) if path in ("weight_info", "is_paused") else _post(client, url, body or {}))
        try:
            return json.loads(data) if data else {}
        except ValueError:
            raise BadAnswer(f"no JSON of /{path}") from None

    def version(self) -> str:
        """Of the weights that the server holds now."""
        return str(self.control("weight_info")["weight_version"])

    # -- before a run

    def describe(self, marker: str) -> dict[str, Any] | str:
        """What the server says about itself (see ``vllm_worker``), or what keeps it from that.

        Args:
            marker: a file in the folder for the weights.
        """
        answer = self.look("collective_rpc", {"method": "describe_student", "args": [marker]})
        status = answer.get("status")
        if status == 404:
            return "is no vLLM server in development mode (VLLM_SERVER_DEV_MODE=1)"
        if status is not None:
            return f"does not know this package (--worker-extension-cls {WORKER})"
        if not answer.get("results"):
            return f"does not answer ({answer.get('error', 'no results')})"
        refusal = self.look("inference/v1/abort_requests", {"request_ids": []}).get("status")
        if refusal == 401:
            return "refuses the key of api_key_env"
        if refusal == 403:
            return "does not offer /inference/v1/generate (--enable-scale-out)"
        workers: list[dict[str, Any]] = answer["results"]
        return {**workers[0], "sees_folder": all(worker["sees_folder"] for worker in workers)}

    def look(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer; its ``status`` where it is a refusal, its ``error`` where there is none."""
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"}
        try:
            response = httpx.post(f"{self.root}/{path}", json=body, headers=headers, timeout=CHECK_S)
            if response.status_code != 200:
                return {"status": response.status_code}
            answer = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return {"error": self.hidden(str(error) or type(error).__name__)}
        return answer if isinstance(answer, dict) else {}


async def _post(client: Any, url: str, body: dict[str, Any]) -> bytes:
    import httpx

    response: httpx.Response = await client.post(url, cast_to=httpx.Response, body=body)
    return response.content


async def _get(client: Any, url: str) -> bytes:
    import httpx

    response: httpx.Response = await client.get(url, cast_to=httpx.Response)
    return response.content


def read_sampled(data: bytes, parameters: dict[str, Any]) -> Sampled:
    """Raises: BadAnswer for an answer that is not what was asked for."""
    try:
        body = json.loads(data)
        choice = body["choices"][0]
        finish, ids = choice["finish_reason"], choice["token_ids"] or []
        spans = choice.get("weight_versions") or []
        content = (choice["logprobs"] or {}).get("content") or []
        logprobs = [
            {t["token_id"]: _number(t["logprob"]) for t in (entry, *entry["top_logprobs"])} for entry in content
        ]
        before = body.get("prompt_logprobs") or []
        prompt = [{int(t): _number(v["logprob"]) for t, v in (entry or {}).items()} for entry in before]
        versions = frozenset(str(span["version"]) for span in spans)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadAnswer(f"no completion: {type(error).__name__} {error} in {data[:200]!r}") from None
    if finish not in ("stop", "length"):  # aborted, because the weights are being replaced
        return Sampled(token_ids=[], logprobs=[], prompt_logprobs=[], truncated=False)
    if not ids or len(ids) > parameters["max_tokens"]:
        raise BadAnswer(f"{len(ids)} tokens where 1 to {parameters['max_tokens']} were asked for")
    if not versions:
        raise BadAnswer("no version of the weights")
    asked = parameters.get("logprobs") is not None
    if asked and (len(logprobs) != len(ids) or any(t not in row for t, row in zip(ids, logprobs, strict=True))):
        raise BadAnswer(f"log-probabilities of {len(logprobs)} positions for {len(ids)} tokens")
    return Sampled(
        token_ids=ids, logprobs=logprobs, prompt_logprobs=prompt, truncated=finish == "length", versions=versions
    )


def _number(value: Any) -> float:
    """vLLM writes -9999 for minus infinity and for NaN, which JSON does not have."""
    number = float(value)
    return -math.inf if number <= FLOOR else number
