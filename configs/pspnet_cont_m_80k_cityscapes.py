# PSPNet with ConT-M on Cityscapes: crops of 672 x 672 and AdamW, else as PSPNet (section 4.2).
# The paper (table 7) reports 78.28 mIoU, where ResNet-50 has 77.12 in the same setting.
_base_ = ['./pspnet_r50_80k_672x672_cityscapes.py', './_base_/cont_m_dense.py']

model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.cont_m,
        # The heads see what they see of ResNet-50-D8. 672 / 8 = 84 is a multiple of the patches 7
        # and 14, which is why the paper changes 713 to 672.
        output_stride=8,
        out_indices=(2, 3),
    ),
    decode_head=dict(in_channels=1024, in_index=1),
    auxiliary_head=dict(in_channels=512, in_index=0),
)

# Two images are too few for the backbone's BatchNorm: like the heads', it counts those of all GPUs.
sync_bn = 'torch'

# The paper names AdamW and prints no numbers. These are SegFormer's for Cityscapes, which has the
# same batch of 8 and a backbone of the same kind and size; new layers learn ten times faster, as in
# PSPNet's own code, and the power is PSPNet's.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        # The longest matching key hides every other rule, so those of the heads say both things.
        custom_keys={
            # Encodings and relative position bias tables.
            'position': dict(decay_mult=0.0),
            '_head.': dict(lr_mult=10.0),
            **{
                key: dict(lr_mult=10.0, decay_mult=0.0)
                for key in ('.bn.weight', '.bn.bias', '.conv_seg.bias')
            },
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=1500, end=80000, by_epoch=False),
]
