# PSPNet with ConT-Ti overfits four tiles of nuclei: 100 iterations from scratch, and
# validation on these same tiles. It shows that everything works together, not how well it
# generalises.
_base_ = [
    '_base_/pspnet_r50_d8.py',
    '_base_/nuclei_segmentation.py',
    '_base_/adamw_small_data.py',
    '_base_/seg_runtime.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(size=(192, 256)),
    backbone=dict(
        _delete_=True,
        type='ConTNet',
        arch='ti',
        downsample='pool',
        output_stride=8,
        out_indices=(2, 3),
    ),
    decode_head=dict(in_channels=768, in_index=1, channels=64, dropout_ratio=0, num_classes=2),
    auxiliary_head=dict(in_channels=384, in_index=0, channels=64, dropout_ratio=0, num_classes=2),
)

max_iters = 100
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=50)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
train_split = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
val_dataloader = dict(dataset=dict(data_prefix=train_split))
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', power=0.9, eta_min=1e-5, by_epoch=False, begin=20, end=max_iters),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50, max_keep_ckpts=1))
log_processor = dict(window_size=10)
randomness = dict(seed=0)
