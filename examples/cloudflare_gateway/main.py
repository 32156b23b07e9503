"""The main file of the Worker: the handler, as Cloudflare calls it."""

import handler

from worker_compat_cloudflare.entrypoint import wrap

Default = wrap(handler)
