package kms

import "net/http"

// AWSOptions are those of aws-kms keys. The zero value is right where the SDK finds credentials by itself.
type AWSOptions struct {
	// Endpoint is called in place of the one that the SDK knows for the key's Region: that of a VPC, say. It is an
	// https URL; http is taken on loopback only, because what travels is key material.
	Endpoint string
	// Credentials is asked before every call. If it is nil, the default chain of the SDK looks for them, and that,
	// unlike this package, reads the environment and the files in ~/.aws, proxies and CA bundles included.
	Credentials func() (AWSCredentials, error)
}

// AWSCredentials sign calls. SessionToken is empty for the long-lived kind.
type AWSCredentials struct{ AccessKeyID, SecretAccessKey, SessionToken string }

// GCPOptions are those of gcp-kms keys. The zero value is right where the SDK finds credentials by itself.
type GCPOptions struct {
	// Endpoint is called in place of cloudkms.googleapis.com: one of Private Service Connect, say. It is an https
	// URL without a path; http is taken on loopback only, because what travels is key material.
	Endpoint string
	// Credentials returns the JSON of a credentials file: of a service account, or a configuration of workload
	// identity federation. It is asked once, by Open. If it is nil, the SDK looks for Application Default
	// Credentials, and that, unlike this package, reads the environment, the folder of gcloud, and on Google's
	// machines the metadata server.
	Credentials func() ([]byte, error)
}

// AzureOptions are those of azure-kv keys. The zero value is right where the SDK finds credentials by itself.
type AzureOptions struct {
	// Credentials is asked once, by Open. If it is nil, the SDK's DefaultAzureCredential looks for some, and that,
	// unlike this package, reads the environment (AZURE_TENANT_ID and the like; AZURE_TOKEN_CREDENTIALS=prod keeps
	// it from trying developers' tools), the files of a workload identity, and asks the machine's managed identity.
	Credentials func() (AzureCredentials, error)
	// Client is used in place of the SDK's own, for the vault and for tokens: where there is a CA of one's own or
	// another way out, say.
	Client *http.Client
}

// AzureCredentials are those of an application that is registered in Entra ID.
type AzureCredentials struct{ TenantID, ClientID, ClientSecret string }
