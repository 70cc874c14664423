# CMT-S fine-tuned on CIFAR-100 at 224 x 224 (CMT, appendix B.1), 8 GPUs x 64 images.
# The paper reports 91.7 % top-1 (tables 6 and 11).
_base_ = './_base_/cmt_s_150e_cifar.py'

model = dict(head=dict(num_classes=100))
data_preprocessor = dict(num_classes=100)
dataset = dict(_delete_=True, type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=dict(**dataset, split='train', pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(**dataset, split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
