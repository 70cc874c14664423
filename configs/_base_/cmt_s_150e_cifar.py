# CMT-S on CIFAR's images, which come loaded, and in RGB.
_base_ = './cmt_s_transfer.py'

data_preprocessor = dict(to_rgb=False)
train_pipeline, test_pipeline = (
    [step for step in pipeline if step.type != 'LoadImageFromFile']
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)
for step in train_pipeline:
    # The mean colour in which rotations leave corners, and in which patches are erased.
    if step.type == 'RandAugment':
        step.hparams.pad_val.reverse()
    if step.type == 'RandomErasing':
        step.fill_color.reverse()
        step.fill_std.reverse()
del step

optim_wrapper = dict(optimizer=dict(lr=6e-5))
train_cfg = dict(max_epochs=150)
