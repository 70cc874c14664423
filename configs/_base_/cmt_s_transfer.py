# CMT-S fine-tuned at 224 x 224 (CMT, appendix B.1): ImageNet's augmentation, and its weights but
# for the last layer. Epochs and learning rates are the paper's. It prints no batch: 8 GPUs x 64
# images are 512, for which the authors' script takes rates as they are. The rest is as on ImageNet
# but for the warm-up, 5 epochs by the script's default, and a lowest rate below the highest.
_base_ = './cmt_deit_300e_in1k.py'

# Made from the authors' file by tools/convert_checkpoint.py (see README).
checkpoint = 'checkpoints/cmt_s_in1k.pth'
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')),
    neck=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='neck.')),
    head=dict(topk=(1,)),
)
train_dataloader = dict(batch_size=64)
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=5),
]
auto_scale_lr = dict(base_batch_size=512)
