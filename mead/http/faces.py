"""The route that lists the faces of a photo, so that a client can choose one before it asks for an edit."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from mead.http import access
from mead.http.description import Description, describe
from mead.http.errors import ApiError, input_error
from mead.http.face_finder import FaceFinder
from mead.http.forms import FormReader, PhotoForm, read_photo
from mead.http.responses import json_response
from mead.http.schemas import PhotoFaces
from mead.imaging.fair_semaphore import BusyError
from mead.imaging.pictures import PictureError
from mead.registry import MODELS
from mead.settings import Settings


def blueprint(settings: Settings, forms: FormReader) -> Blueprint:
    """POST /faces, if a model finds faces."""
    routes = Blueprint("faces", __name__)
    for spec in MODELS.values():
        if spec.finder:
            finder = FaceFinder(spec.type, settings.weights, settings.http_threads // 4)
            routes.add_url_rule("/faces", view_func=_view(forms, finder), methods=["POST"])
            break
    return routes


def _view(forms: FormReader, finder: FaceFinder) -> Callable[[], Response]:
    def faces() -> Response:
        """The faces of a photo.

        Makes no job, and keeps no photo. A number is what the field `face` of /styleclip takes.
        """
        file = read_photo(request)
        try:
            # decoded when its turn has come, so that waiting photos take no memory
            with finder.turn("img", access.client()) as find, forms.whole_photo(file, "img") as photo:
                width, height = photo.size
                found = find(photo)
        except PictureError as error:
            raise input_error(error) from error
        except BusyError as error:
            raise ApiError(429, str(error), error.field) from error
        return json_response(PhotoFaces(width=width, height=height, faces=list(found)))

    errors = (400, 403, 413, 415, 429, 500, 503)
    description = Description({200: [PhotoFaces]}, errors, PhotoForm, required_files=("img",), tag="pictures")
    return describe(description)(faces)
