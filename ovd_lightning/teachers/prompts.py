"""The score scales, under the name by which scripts outside this repository import them."""

from ovd_lightning.judges.scale import SCALES as SCALES
