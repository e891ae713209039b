"""A model behind an HTTP endpoint, as a module that answers images.

Shapes: N images, C x H x W pixels, K classes.
"""

import http.client
import io
import json
import time
import urllib.error
import urllib.request

import numpy as np
import torch
from torch import Tensor, nn


class HTTPVictim(nn.Module):
    """Posts a batch of images to a URL and reads the scores from the answer.

    The body of the request is an array file of numpy's (``.npy``): float32 (N, C, H, W), pixels in [0, 1]. The answer
    is an ``.npy`` file too (Content-Type application/octet-stream), or JSON: scores as N lists of K numbers, or N
    labels, bare or under the key ``scores``.

    A request that fails for want of a connection, by a time-out or with status 429 or 5xx is sent again after a pause
    that doubles each time. The endpoint may bill the lost one; the oracle counts each image once.

    Args:
        url: where to post, http:// or https://.
        headers: sent along, such as an API key.
        timeout: seconds to wait for an answer.
        retries: how often a failed request is sent again.
        pause: seconds before the first retry.

    Raises:
        ValueError: a bad option.
        ConnectionError: no answer after all retries, or a refusal; an attack with a journal goes on from there when it
            is started again.
        ValueError: the answer is no array of numbers; asking again would not help.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        pause: float = 1.0,
    ) -> None:
        super().__init__()
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {url!r}")
        if timeout <= 0 or retries < 0 or pause < 0:
            raise ValueError(f"timeout must be > 0, retries and pause >= 0, got {timeout}, {retries}, {pause}")
        self.url, self.headers, self.timeout, self.retries, self.pause = url, headers or {}, timeout, retries, pause

    def forward(self, images: Tensor) -> Tensor:
        """Answer images (N, C, H, W) with scores (N, K) or labels (N,), as the endpoint gives them."""
        asked = io.BytesIO()
        np.save(asked, images.detach().cpu().numpy().astype("<f4"))
        headers = {"Content-Type": "application/octet-stream", **self.headers}
        request = urllib.request.Request(self.url, asked.getvalue(), headers, method="POST")
        for attempt in range(self.retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    body, kind = answer.read(), answer.headers.get_content_type()
                return self._read(body, kind).to(images.device)
            except urllib.error.HTTPError as error:
                fault = f"status {error.code} {error.reason}"
                again = error.code == 429 or error.code >= 500
            except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut short
                fault, again = str(getattr(error, "reason", None) or error), True
            if not again or attempt == self.retries:
                break
            time.sleep(self.pause * 2**attempt)
        raise ConnectionError(
            f"victim {self.url} did not answer ({fault}, {attempt + 1} tries): "
            "see that it is up and takes float32 .npy images, then start again; what it has answered is kept"
        )

    def _read(self, body: bytes, kind: str) -> Tensor:
        try:
            if kind == "application/json":
                values = json.loads(body)
                array = np.asarray(values["scores"] if isinstance(values, dict) else values)
            else:
                array = np.load(io.BytesIO(body), allow_pickle=False)
            return torch.from_numpy(np.ascontiguousarray(array)).to(
                torch.int64 if array.dtype.kind in "iu" else torch.float32
            )
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(f"{self.url} answered {kind} that holds no array of numbers") from error
