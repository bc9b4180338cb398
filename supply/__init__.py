"""What the images are made of: packages with their hashes, licences and known vulnerabilities, the
bill of materials, and the digests of the images below. Nothing of this folder is shipped."""
