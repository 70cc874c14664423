# CMT-S fine-tuned on Oxford-IIIT Pets at 224 x 224 (CMT, appendix B.1), 8 GPUs x 64 images.
# The paper reports 95.2 % top-1 (tables 6 and 11).
_base_ = './_base_/cmt_s_transfer.py'

model = dict(head=dict(num_classes=37))
data_preprocessor = dict(num_classes=37)
dataset = dict(_delete_=True, type='OxfordIIITPet', data_root='data/Oxford-IIIT_Pets')
train_dataloader = dict(dataset=dict(**dataset, split='trainval', pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(**dataset, split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=6e-5))
train_cfg = dict(max_epochs=300)
