"""The steps of a disconnect: revoke the grant at the provider, then delete the row."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from sealchemy import IntegrationError, IntegrationNotFoundError, ReauthorizationRequiredError, SealchemyError
from sealchemy.metrics import count_token_event

from .integration_row import IntegrationRow
from .snapshot import Claim
from .sync_async import Runner
from .waiting import Waiting, release

if TYPE_CHECKING:
    from .oauth import OAuthClient

logger = logging.getLogger("sealchemy")


class Disconnect:
    """One caller who revokes a grant."""

    def __init__(self, runner: Runner, row: IntegrationRow, client: OAuthClient, *, forget: bool) -> None:
        self._runner, self._row, self._client, self._forget = runner, row, client, forget
        self._waiting = Waiting(client)
        self._claim: Claim | None = None
        self._has_renewed = False

    async def run(self) -> None:
        """Revoke the grant and delete the row; with `forget`, delete it even if its grant cannot be revoked."""
        stored = await self._runner.transaction(self._row.stored)
        await self._runner.run_to_its_end(partial(self._until_gone, stored), None)

    async def _until_gone(self, stored: tuple[Any, ...]) -> None:
        try:
            await self._revoke_and_remove()
        except IntegrationNotFoundError:
            raise
        except SealchemyError as error:
            forget = partial(self._row.forget, stored=stored)
            if self._claim is not None:
                forget = partial(self._row.remove, lease=self._waiting.lease, claim=self._claim)
            if not self._forget or not await self._runner.transaction(forget):
                raise  # or the row has another grant by now
            label = self._row.label(stored[0])
            logger.warning("%s: forgotten; its grant was not revoked (%s)", label, type(error).__name__)

    async def _revoke_and_remove(self) -> None:
        runner, row, waiting = self._runner, self._row, self._waiting
        while True:
            await runner.transaction(row.look)
            began = time.monotonic()
            take = partial(row.claim, lease=waiting.lease, seconds=waiting.seconds)
            if claim := await runner.transaction(take):
                self._claim = claim
                is_done = await self._revoke(claim, began)
                if is_done and await runner.persistently(partial(row.remove, lease=waiting.lease, claim=claim)):
                    break
            await waiting.sleep(runner, None)
        count_token_event("disconnected", row.provider)
        how = "revoked" if self._client.revocation_endpoint else "not revoked, the provider has no endpoint for it"
        logger.info("%s: disconnected; %s", row.label(claim.id), how)

    async def _revoke(self, claim: Claim, began: float) -> bool:
        """Revoke the grant, and return True; False if its expired access token was to be renewed first."""
        token = self._client.token_to_revoke(claim.access_token, claim.refresh_token)
        if not token:
            return True
        is_expired = claim.is_expired and token == claim.access_token
        try:
            if is_expired and not self._has_renewed and self._client.can_renew(claim.access_token, claim.refresh_token):
                return await self._renew(claim, began)
            await self._runner.request(lambda: self._client.revoke(token))
        except IntegrationError as error:
            logger.warning("%s: %s", self._row.label(claim.id), error)
            await release(self._runner, self._row, self._waiting.lease)
            raise
        return True

    async def _renew(self, claim: Claim, began: float) -> bool:
        """Store a new access token, once, as providers accept no expired one; True if the grant is dead anyway."""
        runner, row, lease = self._runner, self._row, self._waiting.lease
        if self._waiting.is_late(began):
            await release(runner, row, lease)
            return False
        self._has_renewed = True
        try:
            grant = await runner.request(lambda: self._client.renew(claim.access_token, claim.refresh_token))
        except ReauthorizationRequiredError:
            return True
        await runner.persistently(lambda session: row.store(session, lease, claim, grant))
        return False
