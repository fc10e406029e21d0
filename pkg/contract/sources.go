package contract

import "embed"

// Sources are the .proto files, below proto/: for documents, which also need the comments.
//
//go:embed proto
var Sources embed.FS
