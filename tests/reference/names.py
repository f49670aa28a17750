"""The authors' layer names -> ours; data only, written without the package.

`LAYERS` has a row for each layer with weights (and for units that a block does
not have), `ENDPOINTS` one for each endpoint.
"""

# Each of the authors' blocks, in order: res2a, res3a, res3b1, ...
BLOCKS = {
  **{f"2{letter}": f"res2/block{i:02d}" for i, letter in enumerate("abc")},
  "3a": "res3/block00",
  **{f"3b{i}": f"res3/block{i:02d}" for i in range(1, 8)},
  "4a": "res4/block00",
  **{f"4b{i}": f"res4/block{i:02d}" for i in range(1, 36)},
  **{f"5{letter}": f"res5/block{i:02d}" for i, letter in enumerate("abc")},
}

UNITS = {
  "branch1": "shortcut",
  "branch2a": "reduce",
  "branch2b": "spatial",
  "branch2b_t": "temporal",
  "branch2c": "expand",
}

LAYERS = {
  "conv1": "stem/conv",
  "bn_conv1": "stem/bn",
  **{
    f"res{block}_{unit}": f"{ours}/{part}/conv"
    for block, ours in BLOCKS.items()
    for unit, part in UNITS.items()
  },
  **{
    f"bn{block}_{unit}": f"{ours}/{part}/bn"
    for block, ours in BLOCKS.items()
    for unit, part in UNITS.items()
  },
  "fc_sports1m": "head/fc",
}

# Ours -> the blob it is. A stage is its last block, before the temporal pool.
ENDPOINTS = {
  "stem": "pool1",
  **{ours: f"res{block}" for block, ours in BLOCKS.items()},
  "res2": "res2c",
  "res3": "res3b7",
  "res4": "res4b35",
  "res5": "res5c",
  "pool5": "pool5",
  "logits": "fc_sports1m",
  "prob": "prob",
}
