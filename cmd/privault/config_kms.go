package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/privault/privault/kms"
)

// Providers is what a KMS takes besides the URI of its key. Endpoints and servers come from here and from --kms, which
// an operator sets, and from nowhere else. Nothing here is a secret: secrets stand in files, which are read again at
// each login, or are found by the SDK of the cloud in the way that is usual there.
type Providers struct {
	AWSEndpoint string `json:"aws_endpoint,omitzero" name:"kms-aws-endpoint" env:"PRIVAULT_KMS_AWS_ENDPOINT" placeholder:"URL" help:"https URL that is called in place of the one of the key's Region, e.g. a VPC endpoint."`
	GCPEndpoint string `json:"gcp_endpoint,omitzero" name:"kms-gcp-endpoint" env:"PRIVAULT_KMS_GCP_ENDPOINT" placeholder:"URL" help:"https URL that is called in place of cloudkms.googleapis.com."`

	HCVault HCVault `json:"hcvault,omitzero" embed:"" prefix:"kms-hcvault-"`
	PKCS11  PKCS11  `json:"pkcs11,omitzero" embed:"" prefix:"kms-pkcs11-"`
}

// HCVault is what an hcvault:// key takes: exactly one of a token, an AppRole and a Kubernetes role.
type HCVault struct {
	Namespace      string `json:"namespace,omitzero" env:"PRIVAULT_KMS_HCVAULT_NAMESPACE" placeholder:"NAME" help:"Namespace of the transit engine and of the login."`
	CAFile         string `json:"ca_file,omitzero" name:"ca-file" env:"PRIVAULT_KMS_HCVAULT_CA_FILE" placeholder:"FILE" help:"Certificates (PEM) to trust in place of the system's."`
	TokenFile      string `json:"token_file,omitzero" env:"PRIVAULT_KMS_HCVAULT_TOKEN_FILE" placeholder:"FILE" help:"File with a token; read again for each call, so an agent may keep it fresh."`
	ApproleID      string `json:"approle_id,omitzero" name:"approle-id" env:"PRIVAULT_KMS_HCVAULT_APPROLE_ID" placeholder:"ID" help:"Role id of an AppRole login."`
	SecretIDFile   string `json:"secret_id_file,omitzero" name:"secret-id-file" env:"PRIVAULT_KMS_HCVAULT_SECRET_ID_FILE" placeholder:"FILE" help:"File with its secret id."`
	KubernetesRole string `json:"kubernetes_role,omitzero" env:"PRIVAULT_KMS_HCVAULT_KUBERNETES_ROLE" placeholder:"NAME" help:"Role of a login as the pod's service account."`
	KubernetesFile string `json:"kubernetes_token_file,omitzero" name:"kubernetes-token-file" env:"PRIVAULT_KMS_HCVAULT_KUBERNETES_TOKEN_FILE" placeholder:"FILE" help:"File with the service account's token, where it isn't in its usual place."`
	AuthMount      string `json:"auth_mount,omitzero" env:"PRIVAULT_KMS_HCVAULT_AUTH_MOUNT" placeholder:"PATH" help:"Mount of the auth method, where it isn't approle or kubernetes."`
}

// PKCS11 is what a pkcs11: key takes, in builds that have PKCS#11.
type PKCS11 struct {
	Module   string `json:"module,omitzero" env:"PRIVAULT_KMS_PKCS11_MODULE" placeholder:"FILE" help:"Library of the HSM, where the URI has no module-path."`
	PINFile  string `json:"pin_file,omitzero" name:"pin-file" env:"PRIVAULT_KMS_PKCS11_PIN_FILE" placeholder:"FILE" help:"File with the user's PIN, where the URI has no pin-source."`
	Sessions int    `json:"sessions,omitzero" env:"PRIVAULT_KMS_PKCS11_SESSIONS" default:"8" help:"Calls that the HSM gets at once."`
	TokenIV  bool   `json:"token_iv,omitzero" name:"token-iv" env:"PRIVAULT_KMS_PKCS11_TOKEN_IV" help:"The HSM makes the nonces of AES-GCM itself, and takes none."`
}

func (k Keys) options() kms.Options {
	return kms.Options{
		Passphrase: func() ([]byte, error) {
			if k.PassphraseFile == "" {
				return nil, fmt.Errorf("the key is sealed to a passphrase: name the file that holds it with --kms-passphrase-file")
			}
			return readLine(k.PassphraseFile)
		},
		AWS:     kms.AWSOptions{Endpoint: k.AWSEndpoint},
		GCP:     kms.GCPOptions{Endpoint: k.GCPEndpoint},
		Transit: k.HCVault.options(),
		PKCS11:  k.PKCS11.options(),
	}
}

func (h HCVault) options() kms.TransitOptions {
	o := kms.TransitOptions{Namespace: h.Namespace, CAFile: h.CAFile}
	if h.TokenFile != "" {
		o.Token = textIn(h.TokenFile)
	}
	if h.ApproleID != "" {
		o.AppRole = kms.AppRole{Mount: h.AuthMount, RoleID: h.ApproleID}
		if h.SecretIDFile != "" {
			o.AppRole.SecretID = textIn(h.SecretIDFile)
		}
	}
	if h.KubernetesRole != "" {
		o.Kubernetes = kms.Kubernetes{Mount: h.AuthMount, Role: h.KubernetesRole, TokenFile: h.KubernetesFile}
	}
	return o
}

func (p PKCS11) options() kms.PKCS11Options {
	o := kms.PKCS11Options{Module: p.Module, Sessions: p.Sessions, TokenIV: p.TokenIV}
	if p.PINFile != "" {
		o.PIN = func() ([]byte, error) { return readLine(p.PINFile) }
	}
	return o
}

// readLine drops the line break that editors leave.
func readLine(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	return []byte(strings.TrimRight(string(b), "\r\n")), err
}

func textIn(path string) func() (string, error) {
	return func() (string, error) {
		b, err := readLine(path)
		return string(b), err
	}
}
