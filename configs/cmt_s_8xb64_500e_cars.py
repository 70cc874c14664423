# CMT-S fine-tuned on Stanford Cars at 224 x 224 (CMT, appendix B.1), 8 GPUs x 64 images.
# The paper reports 94.4 % top-1 (tables 6 and 11).
_base_ = './_base_/cmt_s_transfer.py'

model = dict(head=dict(num_classes=196))
data_preprocessor = dict(num_classes=196)
dataset = dict(_delete_=True, type='StanfordCars', data_root='data/Stanford_Cars')
train_dataloader = dict(dataset=dict(**dataset, split='train', pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(**dataset, split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=9e-5))
train_cfg = dict(max_epochs=500)
