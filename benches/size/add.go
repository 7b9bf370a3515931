// Puts a digest into repositories.json as dockerd does, through moby's own
// package: add FILE REFERENCE IMAGE. tests/fixtures/moby_store_oracle.go says
// which packages it is made with.
package main

import (
	// A digest's algorithm counts only when it is linked in.
	_ "crypto/sha256"
	"log"
	"os"

	"github.com/docker/distribution/reference"
	store "github.com/docker/docker/reference"
	"github.com/opencontainers/go-digest"
)

func main() {
	references, err := store.NewReferenceStore(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	named, err := reference.ParseNormalizedNamed(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	err = references.AddDigest(named.(reference.Canonical), digest.Digest(os.Args[3]), false)
	if err != nil {
		log.Fatal(err)
	}
}
