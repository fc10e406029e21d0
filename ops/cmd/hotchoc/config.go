package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

// config is the one place that reads the environment.
func config(cmd *cobra.Command) stack.Config {
	dir, _ := cmd.Flags().GetString("dir")
	cfg := stack.Config{
		Dir:              dir,
		Mode:             os.Getenv("HOTCHOC_MODE"),
		AMQPURL:          os.Getenv("AMQP_URL"),
		ManagementURL:    os.Getenv("RABBITMQ_MANAGEMENT_URL"),
		DatabaseURL:      os.Getenv("DATABASE_URL"),
		RabbitPassword:   os.Getenv("RABBITMQ_ADMIN_PASSWORD"),
		PostgresPassword: os.Getenv("POSTGRES_ADMIN_PASSWORD"),
		RabbitHome:       os.Getenv("RABBITMQ_HOME"),
		Passwords:        map[string]string{},
		Out:              cmd.ErrOrStderr(),
	}
	for _, service := range stack.Services() {
		cfg.Passwords[service] = os.Getenv(strings.ToUpper(service) + "_PASSWORD")
	}
	return cfg
}

// runFolder is .run of the checkout that this program was built in.
func runFolder() string {
	program, err := os.Executable()
	if err != nil {
		return ".run"
	}
	return filepath.Join(filepath.Dir(filepath.Dir(program)), ".run")
}
