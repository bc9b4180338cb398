"""How settings are loaded: as the fixture `load` does it, from flags."""

from __future__ import annotations

from collections.abc import Callable

from bilstm_server.settings import Settings

Load = Callable[..., Settings]
