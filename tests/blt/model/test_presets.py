import re
from pathlib import Path

import pytest

from blt.errors import UserError
from blt.model.blt import create_blt
from blt.model.presets import BLT_PRESETS, VARIANTS, create_entropy_model
from tests.shared import not_allocated

DOCS = Path(__file__).resolve().parents[3] / "docs" / "model.md"

# name: parameters asked for, local and global width, global heads
ASKED = {
    "micro": (15e6, 256, 384, 6),
    "small": (125e6, 512, 768, 12),
    "base": (350e6, 768, 1024, 16),
    "large": (1.3e9, 1024, 1536, 24),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_sizes_asked_for_and_documented(name):
    parameters, local_dim, global_dim, heads = ASKED[name]
    with not_allocated():
        model = create_blt(name, entropy_model=None)
        counted = model.count_params()
    assert abs(counted / parameters - 1) < 0.1
    options = model.get_config()
    assert (options["local_dim"], options["global_dim"]) == (local_dim, global_dim)
    assert options["global_attention_config"]["num_heads"] == heads
    assert options["global_ffn_config"]["expansion"] == 3.5
    (row,) = re.findall(rf"^\| `{name}` .*$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert f"{counted:,}" in cells


@pytest.mark.parametrize(
    ("name", "millions"), [("1m", 1.0), ("10m", 10.0), ("50m", 50.0), ("100m", 100.0)]
)
def test_entropy_presets_have_the_sizes_they_are_named_by(name, millions):
    with not_allocated():
        model = create_entropy_model(name)
        assert abs(model.count_params() / 1e6 / millions - 1) < 0.2
    if name in ("50m", "100m"):
        assert (model.num_layers, model.window) == (14, 512)
        assert model.dim == {"50m": 512, "100m": 768}[name]


def test_presets_go_by_name():
    assert list(BLT_PRESETS) == ["tiny", *VARIANTS]
    with not_allocated():
        assert create_blt("tiny", ngram_table_size=64).encoder_window == 64
    with pytest.raises(UserError, match=r"--preset tinny: not one of .* Did you mean 'tiny'\?"):
        create_blt("tinny")
    with pytest.raises(UserError, match="Did you mean 'tiny'"):
        create_entropy_model("tinny")
