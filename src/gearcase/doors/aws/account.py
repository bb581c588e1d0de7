"""The real account, as the operator's own credentials open it: where its services are, and calls signed for it.

Credentials are found as the AWS CLI finds them, outside; they are in no event, no error and no answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gearcase.doors.aws.calls import Call
from gearcase.errors import UsageError

_UNSIGNED = frozenset("authorization x-amz-date x-amz-security-token x-amz-content-sha256 date connection content-length".split())


class Account:
    """One account in one region. `endpoint` stands in place of AWS's own addresses. Raises UsageError `missing_credentials`."""

    def __init__(self, region: str, profile: str | None, endpoint: str | None) -> None:
        import botocore.exceptions
        import botocore.session

        try:
            session = botocore.session.Session(profile=profile)
            credentials: Any = session.get_credentials()
        except botocore.exceptions.BotoCoreError as error:
            raise _no_credentials(type(error).__name__) from None
        if credentials is None:
            raise _no_credentials("")
        self.region = region
        self._session: Any = session
        self._credentials = credentials
        self._endpoint = endpoint

    def secrets(self) -> list[str]:
        """What no answer may echo."""
        frozen = self._credentials.get_frozen_credentials()
        return [one for one in (frozen.secret_key, frozen.token) if one]

    def address_of(self, service: str) -> str:
        """`https://HOST` of a service."""
        return self._endpoint or f"https://{self._place(service)['hostname']}"

    @functools.cache  # noqa: B019  a door and its account live as long as each other
    def _place(self, service: str) -> Mapping[str, Any]:
        prefix = self._model(service).endpoint_prefix
        found = self._session.get_component("endpoint_resolver").construct_endpoint(prefix, self.region)
        if not found:
            raise UsageError("bad_region", f"AWS has no {service} in {self.region}", remedy="name another region")
        return found

    @functools.cache  # noqa: B019
    def _model(self, service: str) -> Any:
        from botocore.model import ServiceModel

        return ServiceModel(self._session.get_component("data_loader").load_service_model(service, "service-2"), service)

    def sign(self, method: str, call: Call, headers: Mapping[str, str], body: bytes) -> list[tuple[str, str]]:
        """The headers of a call as it is to be sent to `address_of` its service."""
        from botocore.auth import S3SigV4Auth, SigV4Auth
        from botocore.awsrequest import AWSRequest

        model = self._model(call.service)
        region = self.region
        if self._endpoint is None:
            region = self._place(call.service).get("credentialScope", {}).get("region", region)
        address = self.address_of(call.service)
        kept = {name: value for name, value in headers.items() if name not in _UNSIGNED}
        request: Any = AWSRequest(
            method=method, url=f"{address}{call.target}", data=body, headers={**kept, "host": urlsplit(address).netloc}
        )
        kind = S3SigV4Auth if call.service == "s3" else SigV4Auth
        kind(self._credentials.get_frozen_credentials(), model.signing_name, region).add_auth(request)
        return [(name, value) for name, value in request.headers.items() if name.lower() != "host"]

    def parse(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
        """An answer, as the service's model tells its shape."""
        from botocore.parsers import create_parser

        model = self._model(call.service)
        told = {"status_code": status, "headers": dict(headers), "body": body}
        return create_parser(model.protocol).parse(told, model.operation_model(call.operation).output_shape)

    def client(self, service: str) -> Any:
        """A client of the operator's own. Blocking: use it in a thread."""
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 2})
        return self._session.create_client(service, region_name=self.region, endpoint_url=self._endpoint, config=config)


def _no_credentials(cause: str) -> UsageError:
    remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY outside, or name a profile of ~/.aws with [doors.aws] profile"
    return UsageError("missing_credentials", "the live cloud account has no credentials", cause=cause, remedy=remedy)
