# SAN-ACmix-19 on ImageNet-1k (ACmix, section 5.1), 8 GPUs x 32 images.
# The paper reports 78.7 % top-1 (figure 4b), where SAN-19 has 78.2 %. The network was never
# released; what it was taken to be is in SANACmix's docstring.
_base_ = './_base_/san_acmix_100e_in1k.py'

model = dict(backbone=dict(arch='19'))
