"""The search page: files that the package has, at the root of the service and of each index."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse, RedirectResponse

from anykey.service.access.guard import GuardedRoute
from anykey.service.compat.qdrant.reading import version
from anykey.service.errors import NotFoundError
from anykey.service.lifecycle import INDEX_NAME, index_of
from anykey.service.requests.address import prefix_of
from anykey.service.routes.keys import is_known

FOLDER = Path(__file__).parent.parent / "page"
START = "index.html"
BASE = b'<base href="/">'  # in the start page, which says instead where the service or the index is
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Nothing but the page's own files is run, nothing is asked but this service, and no text can become markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'self'; require-trusted-types-for 'script'; trusted-types"
)
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked about by its entity tag
    "vary": "accept",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

router = APIRouter(route_class=GuardedRoute)
of_service = APIRouter(route_class=GuardedRoute)  # what no index has


@dataclass(frozen=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: Its bytes.
        media_type: What it is.
    """

    content: bytes
    media_type: str


@cache
def files() -> dict[str, PageFile]:
    """All files of the page by name."""
    return {
        path.name: PageFile(path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in FOLDER.iterdir()
        if path.suffix in MEDIA_TYPES
    }


# Parameters in the address are the page's own: a query that somebody shares.
@router.get("/", include_in_schema=False)
async def show_page(request: Request) -> Response:
    """The page, which finds the service, or its index, by its own address.

    At the root, programs that ask for no page are clients of Qdrant, which want to know its version.
    """
    index_of(request)
    if INDEX_NAME not in request.path_params and "text/html" not in request.headers.get("accept", ""):
        return JSONResponse((await version(request)).model_dump(), headers={"vary": "accept"})
    base = f'<base href="{prefix_of(request)}/">'.encode("ascii")
    start = files()[START]
    return _answer(request, PageFile(start.content.replace(BASE, base, 1), start.media_type))


@router.get("/page/{name}", include_in_schema=False)
async def show_file(request: Request, name: str) -> Response:
    """A script, a style or a picture of the page."""
    file = files().get(name)
    if file is None or name == START:
        raise NotFoundError("the page has no such file")
    return _answer(request, file)


@of_service.get("/indexes/{index_name}", include_in_schema=False)
async def lead_to_index(request: Request, index_name: str) -> Response:
    """Leads to an index's page, whose address ends with a slash."""
    index_of(request)
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{prefix_of(request)}/indexes/{index_name}/{query}", status_code=307)


def _answer(request: Request, file: PageFile) -> Response:
    etag = f'"{hashlib.sha256(file.content).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": etag}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
