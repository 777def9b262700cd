"""Which published models is SAFE compared with, in the same loader, trainer and protocol?

One file a model: `resnet18_lstm.py`, `former_dfer.py`, `m3dfel.py`, `c3d.py`. Each names its
reference and what differs from it. All are made as `Model(classes=K, dropout=p)` and map normalised
clips [B, C, T, H, W] to `safe.networks.model.Output`. They were published for 16 frames of
112 x 112; other sizes from 16 pixels up work too. The dropout before the last linear layer is the
protocol's.
"""
