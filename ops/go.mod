module hotchoc/ops

go 1.26.0

require hotchoc/pkg v0.0.0

require hotchoc/migrations v0.0.0

require hotchoc/order v0.0.0

require hotchoc/menu v0.0.0

require hotchoc/pay v0.0.0

require hotchoc/make v0.0.0

require hotchoc/delivery v0.0.0

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/lib/pq v1.12.3 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

replace hotchoc/pkg => ../pkg

replace hotchoc/migrations => ../migrations

replace hotchoc/order => ../order

replace hotchoc/menu => ../menu

replace hotchoc/pay => ../pay

replace hotchoc/make => ../make

replace hotchoc/delivery => ../delivery
