# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# Everything that is pinned, with the SHA-256 of what is fetched.

LINUX_VERSION=6.18.15
LINUX_SUITE=trixie-backports
LINUX_SOURCE=linux=6.18.15-1~bpo13+1
LINUX_ORIG=linux_6.18.15.orig.tar.xz
LINUX_SHA256=fdf4c4d487c95b17a41cb38003faef86669e532a44fe702eb31a3390b6a60cca

BOCHS_VERSION=3.0
BOCHS_SUITE=trixie
BOCHS_SOURCE=bochs=3.0+dfsg-1
BOCHS_ORIG=bochs_3.0+dfsg.orig.tar.xz
BOCHS_SHA256=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b

# Beside the machine's own QEMU; built for Debian 12, whose libraries it needs.
QEMU_VERSION=10.0.2
QEMU_SUITE=bookworm-backports
# package, version, architecture, SHA-256
QEMU_PACKAGES='
qemu-system-x86  1:10.0.2+ds-2+deb13u1~bpo12+1 amd64 4a6b1856c8b0d7df4ff8e70249e12c473ccf8d516aadb4ae14d3d938faed0c65
qemu-system-data 1:10.0.2+ds-2+deb13u1~bpo12+1 all   2d831088187087013b3fcbd19bdfb955b182a2d5a08f6dafa0ad1c6d2007fb4e
seabios          1.16.3-2~bpo12+1              all   48390d0a534c66d11789e39518aa219773a9d3677b29fe1af8799dfb563ec713
'

BINDGEN_VERSION=0.72.1
RUST_VERSION=1.85.0
RUST_PACKAGE_VERSION=1.85.0+dfsg3-1~deb12u3
# package, architecture, SHA-256
RUST_PACKAGES='
rustc-web            amd64 ef797a56697a0b6a82c1d704119ccaa85ab3486ccf805472de46c31971346702
rust-web-src         all   48849a40ac3490b6ed45b0813c6c92d4c689448b0c4251997f56399b8f899d0d
libstd-rust-web-dev  amd64 5360a1aa03979ccc4cc91dd3d9bad1d5ff30f36d615ed01e2c5209c5e8ece21b
libstd-rust-web-1.85 amd64 c8b03bff73b2990b2a3e56b0cfb100eb4c70a9331f4232dc9783c9e50b1038be
rustfmt-web          amd64 1d73c7c2f1d8125700cbd68b69b41e77d1d0cc9aa71eb7a435e1905a98a1ce92
rust-web-clippy      amd64 94fd3e8bd81e490ea340088ba7c81784fc7a24beecd143f4c511d943be62cbf8
cargo-web            amd64 59e985e49ba0934ba8aabacd2c38cc394fefa621e9f96ed2c494cf2ed33449f4
'
