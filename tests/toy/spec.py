"""What the service knows of the toy model."""

from pydantic import Field

from mead.model_spec import Extent, FormField, ModelSpec, PageForm
from mead.params import JobParams


class ToyParams(JobParams):
    """A grey, and how light it is."""

    shade: int = Field(128, ge=0, le=255, description="How light the grey is.")


SPEC = ModelSpec(
    type="toy",
    name="Toy",
    route="toy",
    summary="Make a grey square.",
    params=ToyParams,
    hyperparameters=dict,
    networks=(),
    module="tests.toy.model",
    own_extent=lambda weights: Extent(16, 16, 0, 3),
    form=PageForm(
        "Grey", "Make it grey", {"Grey": (FormField("prompt", "Name"), FormField("shade", "Shade"))}
    ),
    examples={"grey": {"prompt": "a cloud", "shade": 200}},
)
