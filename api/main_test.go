package api_test

import (
	"testing"

	"github.com/privault/privault/vault/vaulttest"
)

func TestMain(m *testing.M) { vaulttest.Main(m) }
