package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hotchoc/ops/asyncapi"
	"hotchoc/ops/shop"
)

func flowAsyncAPI() *cobra.Command {
	return &cobra.Command{
		Use:   "asyncapi",
		Short: "Write it as an AsyncAPI 3.0 document (docs/asyncapi.json)",
		Long: `Channels, messages with headers and payloads, and who sends and hears what, as JSON: for the tools that read
AsyncAPI, and for people who write a service in another language.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := asyncapi.Document(cmd.Context(), shop.Flows())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
			return err
		},
	}
}
