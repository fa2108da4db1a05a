"""What a camera leaves to be done: raw counts to reflectance, frames that were lost."""
