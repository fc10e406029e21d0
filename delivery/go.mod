module hotchoc/delivery

go 1.26.0

require hotchoc/pkg v0.0.0

replace hotchoc/pkg => ../pkg
