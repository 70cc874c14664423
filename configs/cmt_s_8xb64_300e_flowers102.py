# CMT-S fine-tuned on Oxford Flowers (102) at 224 x 224 (CMT, appendix B.1), 8 GPUs x 64 images.
# The paper reports 98.7 % top-1 (tables 6 and 11).
_base_ = './_base_/cmt_s_transfer.py'

model = dict(head=dict(num_classes=102))
data_preprocessor = dict(num_classes=102)
dataset = dict(_delete_=True, type='Flowers102', data_root='data/Flowers102')
train_dataloader = dict(dataset=dict(**dataset, split='trainval', pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(**dataset, split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=9e-5))
train_cfg = dict(max_epochs=300)
