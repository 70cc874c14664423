# What CoTNet's detectors on COCO share (section 4.2): mmdet's 1x schedule with no weight decay on
# norms, and BatchNorm in backbone, FPN and heads, which is SyncBN in distributed training:
#     model = dict(backbone=dict(_delete_=True, **_base_.cotnet50), neck=dict(norm_cfg=_base_.bn))
#
# Not printed: what is frozen, the decay and the warm-up are those of the authors' released logs.
# Their ImageNet weights are those of the advanced training, and they measured BatchNorm's
# statistics anew before testing (200 batches), which mmdet does not.
_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']

custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
bn = dict(type='BN', requires_grad=True)
# Makes SyncBN of every BatchNorm where several GPUs train. One process keeps BatchNorm by itself;
# for several without SyncBN: --cfg-options sync_bn=None
#
# CoTNet's layers weigh channels by an image's mean, through a BatchNorm that one image alone cannot
# train. Without SyncBN leave out the last batch where a process has an odd number of images:
#   --cfg-options train_dataloader.batch_sampler=None train_dataloader.drop_last=True
# (not batch_sampler.drop_last, with which mmdet's sampler gives processes unequal numbers of
# batches, and they wait for each other), or train one image at a time with
#   --cfg-options train_dataloader.batch_size=1 model.backbone.norm_eval=True
sync_bn = 'torch'
cotnet50 = dict(
    type='CoTNet',
    arch='50',
    out_indices=(0, 1, 2, 3),
    frozen_stages=1,
    # ImageNet weights, made from the authors' file by tools/convert_checkpoint.py (see README).
    # To train from scratch instead:
    #   --cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1
    init_cfg=dict(
        type='Pretrained', checkpoint='checkpoints/cotnet50_in1k.pth', prefix='backbone.'
    ),
)

optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
param_scheduler = _base_.param_scheduler
for schedule in param_scheduler:
    if schedule.type == 'LinearLR':
        schedule.end = 1000
del schedule
